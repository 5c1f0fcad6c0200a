"""Objects in an image, in three lines; then what else the result knows.

python examples/find_objects.py [image.png]
"""

import json
import sys

import objecthood as oh

(result,) = oh.predict("clevr", sys.argv[1] if len(sys.argv) > 1 else None)
print(result)
result.plot().save("slots.png")  # image, reconstruction, segmentation, every slot alone
result.plot("overlay").save("overlay.png")  # at the image's own size
result.animate("attention.webp")  # where every slot looks, iteration by iteration

for mask in result.to_coco()["annotations"]:
    print(f"slot {mask['slot'] + 1}: {mask['area']} pixels, box {mask['bbox']}")
with open("masks.json", "w") as file:
    json.dump(result.to_coco(), file)

(words,) = oh.predict("set-clevr", result.pixels)  # the same image, in words
print("seen:", words.summary)
