"""Released models of the papers: one file a release, with where its authors publish it, its licence and its key map."""

from __future__ import annotations

from toolkit.published import audio_mae, bird_mae, bm_mae, mae, point_mae, reve

RELEASES = (
    audio_mae.RELEASE,
    bird_mae.RELEASE,
    bm_mae.RELEASE,
    mae.RELEASE,
    point_mae.POINT_CMAE,
    point_mae.POINT_MAE,
    reve.RELEASE,
)
