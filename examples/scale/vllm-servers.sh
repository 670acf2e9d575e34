#!/bin/bash
# One vLLM server for each GPU of this machine, on ports 8000, 8001, ...: vllm-servers.sh MODEL GPUS. All end together.
set -euo pipefail
model=$1
gpus=$2
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
for gpu in $(seq 0 $((gpus - 1))); do
  CUDA_VISIBLE_DEVICES=$gpu VLLM_SERVER_DEV_MODE=1 vllm serve "$model" --port $((8000 + gpu)) --enable-scale-out \
    --logprobs-mode processed_logprobs --worker-extension-cls rlvr.engines.vllm.worker.Worker \
    --weight-transfer-config '{"backend": "rlvr"}' &
done
wait -n
echo "a vLLM server ended; ending the others" >&2
exit 1
