"""Rebuild the encoder of an exported folder with torch, safetensors and json alone, and compare with the outputs recorded there.

    python load_export.py FOLDER

For transformers of signal, volume and spectrogram tokens. Prints, for each output, its shape and the largest difference;
on the CPU of the machine that exported it is 0, on others it may be a few millionths. Your own tokens go in the same way:
config.json says under "inputs" and "preprocessing" what they are.
"""

import json
import math
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch.nn.functional import gelu, layer_norm, linear, rms_norm, scaled_dot_product_attention, silu


class Encoder:
    """Tables of config.json and tensors of model.safetensors; call it with token tensors."""

    def __init__(self, folder):
        self.config = json.loads((Path(folder) / "config.json").read_text())
        self.weights = load_file(Path(folder) / "model.safetensors")
        self.table, self.position = self.config["encoder"], self.config["position"]
        if self.table["kind"] != "vit" or self.config["tokenizer"]["kind"] in ("points", "voxels"):
            sys.exit("This script rebuilds transformers of signal, volume and spectrogram tokens.")
        for name, shape in self.config["tensors"].items():
            assert list(self.weights[name].shape) == shape, name

    def get(self, name):
        return self.weights.get(f"encoder.{name}")

    def linear(self, x, name):
        return linear(x, self.get(f"{name}.weight"), self.get(f"{name}.bias"))

    def norm(self, x, name):
        weight, bias = self.get(f"{name}.weight"), self.get(f"{name}.bias")
        if self.table["norm"] == "rms":
            return rms_norm(x, (x.shape[-1],), weight, self.table["eps"])
        return layer_norm(x, (x.shape[-1],), weight, bias, self.table["eps"])

    def patches(self, patches, channel, descriptor):
        """Each token's values in the encoder's width."""
        if self.table["channels"] == "projection":  # a linear for each named channel, one and a code for all others
            named = len(self.config["tokenizer"]["channels"])
            x = self.linear(patches, "embed_patch.other") + self.linear(descriptor, "embed_patch.code")
            for number in range(named):
                x = torch.where((channel == number)[..., None], self.linear(patches, f"embed_patch.each.{number}"), x)
            return x
        if self.get("embed_patch.weight") is not None:
            return self.linear(patches, "embed_patch")
        for place in (0, 1, 2):  # a linear between two layer norms
            weight, bias = self.get(f"embed_patch.{place}.weight"), self.get(f"embed_patch.{place}.bias")
            patches = linear(patches, weight, bias) if place == 1 else layer_norm(patches, weight.shape, weight, bias)
        return patches

    def channels(self, channel, descriptor):
        """What tells channels apart; None where nothing does."""
        own = self.get("embed_channel.own.weight")
        if own is not None:
            found = own[channel.clamp(max=len(own) - 1)]
            return torch.where((channel < len(own))[..., None], found, self.linear(descriptor, "embed_channel.code"))
        return self.linear(descriptor, "embed_channel") if self.get("embed_channel.weight") is not None else None

    def place(self, coords):
        """The position code (B, N, width), or None."""
        table, code = self.position, self.position["code"]
        if not self.table["positions"] or code == "none":
            return None
        if code == "grid":
            count = torch.tensor(table["cells"])
            cell = ((coords - torch.tensor(table["middle"])) / torch.tensor(table["cell"]) + count / 2).floor().long()
            step = torch.tensor([math.prod(table["cells"][axis + 1 :]) for axis in range(4)])
            return self.get("embed_position.table")[(cell * step).sum(-1)]
        if code == "mlp":
            hidden = gelu(self.linear(coords[..., :3], "embed_position.layers.0"))
            return self.linear(hidden, "embed_position.layers.2")
        if code == "fourier":
            ends = zip(table["longest"], table["shortest"], strict=True)
            axes = [1 / torch.logspace(math.log10(a), math.log10(b), table["bands"]) for a, b in ends]
            phase = (coords[..., None] * (2 * math.pi * torch.stack(axes))).flatten(-2)
            return self.linear(torch.cat([phase.sin(), phase.cos()], dim=-1), "embed_position.project")
        return self.space_time(coords)

    def space_time(self, coords):
        axis = torch.arange(self.position["frequencies"], dtype=torch.float32)
        waves = torch.cartesian_prod(axis, axis, axis, axis)[: self.table["width"] // 2]
        place = (coords - torch.tensor(self.position["middle"])) / torch.tensor(self.position["unit"])
        phase = (place * torch.tensor([1.0, 1.0, 1.0, 0.1]) + 0.4) @ (2 * math.pi / 1.8 * waves).T
        x = gelu(self.linear(place, "embed_position.mlp.0"))
        size, norm = (x.shape[-1],), self.get
        x = layer_norm(x, size, norm("embed_position.mlp.2.weight"), norm("embed_position.mlp.2.bias"))
        x = torch.cat([phase.cos(), phase.sin()], dim=-1) + x
        return layer_norm(x, size, norm("embed_position.norm.weight"), norm("embed_position.norm.bias"))

    def phases(self, coords):
        """Cosine and sine (B, 1, N, head_width / 2) by which queries and keys are turned, or None."""
        rotary = ["xyzt".index(axis) for axis in self.position["rotary"]]
        if not rotary or not self.table["positions"]:
            return None
        pairs, longest, shortest = self.table["head_width"] // 2, self.position["longest"], self.position["shortest"]
        share = [(pairs + len(rotary) - 1 - k) // len(rotary) for k in range(len(rotary))]
        waves = [
            1 / torch.logspace(math.log10(2 * longest[axis]), math.log10(shortest[axis]), n)
            for axis, n in zip(rotary, share, strict=True)
        ]
        chosen = torch.repeat_interleave(torch.tensor(rotary), torch.tensor(share))
        phase = coords[:, None, :, chosen] * (2 * math.pi * torch.cat(waves))
        return phase.cos(), phase.sin()

    def block(self, x, number, phases, mask):
        name = f"blocks.{number}"
        inner = self.norm(x, f"{name}.norm1")
        query, (key, value) = (
            self.linear(inner, f"{name}.attention.query"),
            self.linear(inner, f"{name}.attention.key_value").chunk(2, -1),
        )
        query, key, value = (part.unflatten(-1, (self.table["heads"], -1)).transpose(1, 2) for part in (query, key, value))
        mixed = scaled_dot_product_attention(turned(query, phases), turned(key, phases), value, attn_mask=mask)
        x = x + self.linear(mixed.transpose(1, 2).flatten(2), f"{name}.attention.out")
        inner = self.norm(x, f"{name}.norm2")
        if self.table["activation"] == "gelu":
            return x + self.linear(gelu(self.linear(inner, f"{name}.mlp.0")), f"{name}.mlp.2")
        value, gate = self.linear(inner, f"{name}.mlp.up").chunk(2, dim=-1)
        gate = gelu(gate) if self.table["activation"] == "geglu" else silu(gate)
        return x + self.linear(value * gate, f"{name}.mlp.down")

    def __call__(self, patches, coords, channel, descriptor, valid):
        """Outputs as config.json describes them: states, extra and pooled."""
        x, told, place, phases = (
            self.patches(patches, channel, descriptor),
            self.channels(channel, descriptor),
            self.place(coords),
            self.phases(coords),
        )
        x = x if told is None else x + told
        every, extra = self.position["every_block"], self.get("extra")
        if place is not None and not every:
            x, place = x + place, None
        count, attended = 0 if extra is None else len(extra), valid
        if extra is not None:
            x = torch.cat([extra.expand(len(x), -1, -1), x], dim=1)
            attended = torch.cat([valid.new_ones(len(x), count), valid], dim=1)
            if place is not None:
                place = torch.cat([self.get("extra_position").expand(len(x), -1, -1), place], dim=1)
            if phases is not None:
                still = (len(x), 1, count, phases[0].shape[-1])
                phases = tuple(torch.cat([torch.full(still, f), p], dim=2) for f, p in zip((1.0, 0.0), phases, strict=True))
        mask = None if attended.all() else (attended | ~attended.any(1, keepdim=True))[:, None, None]
        wanted, layers = self.config["embedding"], [x]
        for number in range(self.table["depth"] + 1 + wanted["layer"]):
            x = self.block(x if place is None else x + place, number, phases, mask)
            layers.append(x)
        if wanted["layer"] == -1 and self.table["final_norm"]:
            x = self.norm(x, "norm")
        last, kept = x[:, count:], [layer[:, count:] for layer in layers]
        states = last if wanted["layers"] == 1 else torch.stack(kept[-wanted["layers"] :]).mean(0)
        found = {"states": states, "extra": x[:, :count]}
        if wanted["after_norm"] and wanted["layer"] == -1:
            raw = pooled(wanted["pool"], kept[-1], found["extra"], valid).unflatten(1, (-1, self.table["width"]))
            weight, bias = self.weights["pool_norm.weight"], self.weights["pool_norm.bias"]
            return found | {"pooled": layer_norm(raw, weight.shape, weight, bias, 1e-6).flatten(1)}
        return (
            found if wanted["pool"] == "attention" else found | {"pooled": pooled(wanted["pool"], states, found["extra"], valid)}
        )


def turned(heads, phases):
    if phases is None:
        return heads
    (cos, sin), (first, second) = phases, heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


def pooled(kind, states, extra, valid):
    weight = valid[..., None].to(states.dtype)

    def mean(values):
        return (values * weight).sum(1) / weight.sum(1).clamp(min=1)

    if kind == "class":
        return extra[:, 0]
    largest = states.masked_fill(~valid[..., None], -torch.inf).amax(1).nan_to_num(neginf=0.0)
    if kind in ("max", "meanmax", "classmax"):
        if kind == "max":
            return largest
        return torch.cat([extra[:, 0] if kind == "classmax" else mean(states), largest], dim=-1)
    center = mean(states)
    if kind == "mean":
        return center
    return torch.cat([center, mean((states - center[:, None]) ** 2).clamp(min=0).sqrt()], dim=-1)


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    recorded = load_file(Path(sys.argv[1]) / "example.safetensors")
    given = {name.removeprefix("in."): value for name, value in recorded.items() if name.startswith("in.")}
    with torch.inference_mode():
        outputs = Encoder(sys.argv[1])(**given)
    for name, value in sorted(recorded.items()):
        if name.startswith("out."):
            found = outputs[name.removeprefix("out.")]
            print(f"{name[4:]:7} {tuple(found.shape)}: largest difference {(found - value).abs().max():.3g}")


if __name__ == "__main__":
    main()
