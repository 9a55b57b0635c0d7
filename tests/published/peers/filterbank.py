"""Records kaldi-native-fbank's log-mel energies: `python filterbank.py OUT.npz` in an environment with it (1.22.5).

The options are those of AudioMAE and Bird-MAE: HTK mel scale, Hann window, no dither, no energy, full scale 1.
"""

from __future__ import annotations

import importlib.metadata
import sys
from pathlib import Path

import fabricate
import kaldi_native_fbank as knf
import numpy as np

CASES = ((32000, 0.6, 128), (16000, 1.0, 128), (44100, 0.31, 64), (8000, 1.5, 40))  # Hz, seconds, bands
STEP = 8  # every so many frames are kept


def main(out: Path) -> None:
    cases = []
    for number, (rate, seconds, bands) in enumerate(CASES):
        options = knf.FbankOptions()
        options.frame_opts.samp_freq, options.frame_opts.window_type = rate, "hanning"
        options.frame_opts.dither, options.mel_opts.num_bins = 0.0, bands
        options.frame_opts.snip_edges, options.use_energy, options.htk_compat = True, False, True
        bank = knf.OnlineFbank(options)
        bank.accept_waveform(rate, fabricate.wave(number, rate, seconds).tolist())
        bank.input_finished()
        frames = np.stack([bank.get_frame(i) for i in range(bank.num_frames_ready)])
        cases.append(
            {
                "rate": np.array(rate),
                "seconds": np.array(seconds),  # of fabricate.wave(NUMBER)
                "count": np.array(len(frames)),
                "frames": frames[::STEP],  # they do not depend on one another
            }
        )
    fabricate.record(out, {"kaldi-native-fbank": importlib.metadata.version("kaldi-native-fbank")}, {}, cases)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
