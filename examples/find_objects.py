"""Find the objects of an image in three lines; then use everything else in the result.

python examples/find_objects.py [image.png]
"""

import json
import sys

import objecthood as oh

(result,) = oh.predict("clevr", sys.argv[1] if len(sys.argv) > 1 else None)
print(result)
result.plot().save("slots.png")  # image, reconstruction, segmentation, every slot alone
result.plot("overlay").save("overlay.png")  # at the size of the image
result.animate("attention.webp")  # attention of every slot, iteration by iteration

for mask in result.to_coco()["annotations"]:
    print(f"slot {mask['slot'] + 1}: {mask['area']} pixels, box {mask['bbox']}")
with open("masks.json", "w") as file:
    json.dump(result.to_coco(), file)

(words,) = oh.predict("set-clevr", result.pixels)  # predicted properties of each object
print("objects:", words.summary)
