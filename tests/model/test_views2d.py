"""Views of clouds: pixels hold the points that lie in them, and what is read off a view comes back to the right points."""

import numpy as np
import pytest
import torch

from toolkit.model.views2d import FARTHEST, back_project, project, visible

AXES = ((1, 2), (0, 2), (0, 1))


def shells(size=3, points=400, seed=0):
    """Ellipsoids in the unit sphere, (size, points, 3)."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(size, points, 3))
    x /= np.linalg.norm(x, axis=2, keepdims=True)
    return (x * rng.uniform(0.4, 1, (size, 1, 3))).astype(np.float32)


def drawn(cloud, side):
    """Nearness (3, side, side) and the number of the nearest point of each pixel, -1 for none, point by point."""
    half = np.abs(cloud).max()
    images, nearest = np.zeros((3, side, side)), np.full((3, side, side), -1)
    for number, point in enumerate(cloud):
        for view, (row, column) in enumerate(AXES):
            at = [min(side - 1, int((point[axis] / half + 1) / 2 * side)) for axis in (row, column)]
            near = FARTHEST + (1 - FARTHEST) * (point[view] / half + 1) / 2
            if near > images[view][*at]:
                images[view][*at], nearest[view][*at] = near, number
    return images, nearest


def everything(clouds):
    return torch.ones(clouds.shape[:2], dtype=torch.bool)


@pytest.mark.parametrize("side", [16, 33])
def test_each_pixel_holds_the_nearest_of_the_points_that_lie_in_it(side):
    clouds = shells()
    views = project(torch.from_numpy(clouds), everything(clouds), side, margin=0)
    for cloud, images in zip(clouds, views.images.numpy(), strict=True):
        np.testing.assert_allclose(images, drawn(cloud, side)[0], atol=1e-6)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_places_read_off_the_views_come_back_to_the_points_they_were_drawn_of(scale):
    side, clouds = 48, scale * shells(points=900)
    views = project(torch.from_numpy(clouds), everything(clouds), side, margin=0)
    maps = []
    for cloud in clouds:
        _, nearest = drawn(cloud, side)
        maps.append(np.where(nearest[:, None] >= 0, np.moveaxis(cloud[nearest], -1, 1), np.nan))
    back = back_project(views, torch.from_numpy(np.stack(maps)), torch.from_numpy(clouds), smooth=False).numpy()
    error = np.abs(back - clouds) / views.pixel.numpy()[:, None, None]
    seen = visible(views, torch.from_numpy(clouds)).numpy().any(1)
    assert seen.mean() > 0.5 and np.isfinite(back).all()  # every point's pixel is drawn
    assert error[seen].max() <= 2.01  # pixels: one across, and in depth what a slope of 2 makes of one
    assert np.median(error[seen]) < 0.5


def test_points_reach_as_many_pixels_beyond_their_own_as_is_said():
    cloud = torch.tensor([[[0.0, 0.0, 0.0], [1.0, -1.0, 1.0]]])
    lit = project(cloud, torch.tensor([[True, False]]), 15, margin=2)
    assert lit.half.tolist() == [1.0]  # of the point that counts, which lies in the middle
    expected = np.zeros((15, 15), bool)
    expected[5:10, 5:10] = True
    for image in lit.images[0]:
        np.testing.assert_array_equal(image.numpy() > 0, expected)


def test_what_a_wall_hides_takes_nothing_from_that_view():
    """A wall across x, and a point far behind its middle: seen from +y and +z, not from +x."""
    grid = np.linspace(-0.9, 0.9, 40)
    wall = np.stack([np.full(1600, 0.8), *(g.ravel() for g in np.meshgrid(grid, grid))], axis=1)
    cloud = torch.from_numpy(np.vstack([wall, [[-0.8, 0.01, 0.01]]]).astype(np.float32))[None]
    views = project(cloud, torch.ones(1, 1601, dtype=torch.bool), 32)
    assert visible(views, cloud)[0, :, -1].tolist() == [False, True, True]
    maps = torch.tensor([100.0, 1.0, 3.0]).view(1, 3, 1, 1, 1).expand(-1, -1, -1, 8, 8)
    assert back_project(views, maps, cloud)[0, -1].item() == pytest.approx(2.0)
    assert back_project(views, maps, cloud)[0, 800].item() > 20  # on the wall, which +x sees


def test_what_is_not_valid_is_not_drawn_and_an_empty_cloud_is_black():
    clouds = torch.from_numpy(shells(2))
    valid = everything(clouds)
    valid[0, 200:] = False
    valid[1] = False
    other = torch.where(valid[..., None], clouds, 7.0)
    one, two = (project(each, valid, 24) for each in (clouds, other))
    assert torch.equal(one.images, two.images) and torch.equal(one.half, two.half)
    assert not one.images[1].any() and one.images[0].any()
    assert torch.isfinite(back_project(one, torch.rand(2, 3, 4, 6, 6), clouds)).all()


def test_a_map_of_any_size_is_read_at_the_point_s_place_in_it():
    """A map that rises linearly along its rows reads, between cells, the point's own coordinate."""
    clouds = shells(1, 300)
    points = torch.from_numpy(clouds)
    views = project(points, everything(clouds), 64)
    cells = 16
    middle = (torch.arange(cells) + 0.5) / cells * 2 - 1
    maps = torch.zeros(1, 3, 2, cells, cells)
    maps[0, 2, 0], maps[0, 2, 1] = middle[:, None].expand(cells, cells), middle[None].expand(cells, cells)
    maps[0, 0] = maps[0, 1] = torch.nan  # read by no point that only +z sees
    only = visible(views, points)[0].int().tolist()
    alone = [k for k in range(300) if [row[k] for row in only] == [0, 0, 1]]
    back = back_project(views, maps, points)[0, alone].numpy()
    inner = np.abs(clouds[0, alone, :2] / views.half.item()).max(1) < 1 - 1 / cells
    assert inner.sum() > 5
    np.testing.assert_allclose(back[inner], clouds[0, alone][inner, :2] / views.half.item(), atol=1e-5)
