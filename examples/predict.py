"""Find objects in one photograph: python examples/predict.py BUNDLE PHOTO, for example runs/digits/bundle/cpu-int8 photo.jpg."""

import sys

import edgedistill

folder, photo = sys.argv[1:]

# Opens the bundle once: its files are checked and its engine is loaded.
with edgedistill.Predictor(folder, min_score=0.3) as predictor:
    found = predictor(photo)  # also bytes, a Pillow image, or a uint8 RGB array [H, W, 3]

print(f"{photo}: {len(found)} objects in {found.width} x {found.height} px, {found.timings.end_to_end_ms:.1f} ms")
for name, score, box in zip(found.names, found.scores, found.boxes, strict=True):
    print(f"{name} {score:.2f} at {box.round().tolist()}")  # x1, y1, x2, y2 in px of the photograph
found.draw().save("found.png")

# The gates' verdicts that the bundle carries: was it accurate and fast enough when it was measured?
judged = edgedistill.gate(folder)
for verdict in judged.verdicts:
    print(f"{verdict.name}: {verdict.verdict}, measured {verdict.measured}")
print("passed" if judged.passed else f"not passed: exit code {judged.exit_code}")
