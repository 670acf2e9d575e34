#!/bin/bash
# One machine with eight GPUs; --continue goes on with the run after an interruption.
set -euo pipefail
exec torchrun --standalone --nproc-per-node 8 -m rlvr train examples/scale/eight-gpus.toml out=runs/scale-8 --continue
