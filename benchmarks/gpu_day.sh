#!/usr/bin/env bash
# A quarter of an hour with one GPU: trains all priors at once, then runs the tests and timings that
# need the GPU, three minutes at most each (LAST). From the repository's root, in an environment with
# wellposed and its extra "dev":
#
#     benchmarks/gpu_day.sh DATA OUT                          (8 minutes of training on CUDA)
#     DEVICE=cpu MINUTES=2 STEPS=4 benchmarks/gpu_day.sh DATA OUT     (a rehearsal)
#
# DATA holds natural/free_photos, mri/brain_mri_256.h5 and ct/train_slices{,_2}_256.h5. OUT gets one
# folder of weights for each prior, below 16 MiB, and the logs. Training that runs out of time leaves
# its last checkpoint; the same call goes on from there.
set -uo pipefail
DATA=$1 OUT=$2
DEVICE=${DEVICE:-cuda} MINUTES=${MINUTES:-8} STEPS=${STEPS:-10000}
mkdir -p "$OUT"

train() { # NAME OPTIONS...
    local name=$1
    shift
    timeout "${MINUTES}m" python -m wellposed train --name "$name" --out "$OUT/$name" "$@" \
        --device "$DEVICE" --bf16 --steps "$STEPS" --batch-size 32 --learning-rate 1e-3 \
        --decay 0.4 --ema 0.999 --block gated --widths 64,128,192,256 --save-every 500 \
        --image-every "$STEPS" --workers 2 --threads 1 >"$OUT/$name.log" 2>&1
    echo "$name: exit code $?, $(grep -o 'step [0-9]* loss.*' "$OUT/$name.log" | tail -n 1)"
}

photos=(--data "$DATA/natural/free_photos" --held-out 0.03 --zoom 0.6 1.1 --image-size 64)
started=$SECONDS
train natural "${photos[@]}" &
train brain-mri --data "$DATA/mri/brain_mri_256.h5" --key magnitude --group-key subject \
    --volume-key volume --valid-key valid --complex-phase --percentile 99.8 --data-range -1 1 \
    --held-out 0.14 --zoom 0.8 1.25 --foreground 0.08 --sigma-data 0.3 --image-size 64 &
train ct --data "$DATA/ct/train_slices_256.h5" --data "$DATA/ct/train_slices_2_256.h5" --key hu \
    --group-key patient --window -1000 1000 --held-out 0.08 --zoom 0.8 1.25 --image-size 64 &
train irsde-deblur "${photos[@]}" --process ir-sde --prediction velocity --loss mse \
    --max-sigma 25 --degradation deblurring --blur 0.5 2.5 --noise 0 0.1 --margin 16 &
train resshift-x4 "${photos[@]}" --process resshift --prediction residual --kappa 1 \
    --degradation super-resolution --factor 4 --kernel bicubic --noise 0 0.02 --margin 16 &
wait
echo "training: $((SECONDS - started)) s"

timeout "${LAST:-3}m" python -m pytest -m gpu -q >"$OUT/tests.log" 2>&1
echo "tests that need CUDA: $(tail -n 1 "$OUT/tests.log")"
repeats=$([ "$DEVICE" = cuda ] && echo 5 || echo 1)
timeout "${LAST:-3}m" python benchmarks/prior.py --device "$DEVICE" --repeats "$repeats" >"$OUT/prior.md" 2>&1
echo "timings: exit code $?"
find "$OUT" -name checkpoint.pt -size +15M -delete
