"""Stage `attributes`: each subject's attribute dictionary, read from its photos.

Run from the repository's root: `python -m pipelines.attributes`.
"""

import json
import sys

from insitu.files import replace_text
from insitu.params import Params
from insitu.records import read
from insitu.records.subjects import SubjectPhoto
from insitu.synthesis.attributes import AttributeReader, LanguageAttributes, ZeroShotAttributes
from insitu.synthesis.reading import cut
from pipelines import _models, _step
from pipelines._paths import ATTRIBUTES, SUBJECTS


def main(params: Params, report: _step.Report) -> None:
    reader = _reader(params)
    found = {}
    for folder in sorted(path for path in SUBJECTS.iterdir() if path.is_dir()):
        photos = list(read(folder, SubjectPhoto))
        crops = [cut(photo.image.array(), photo.box.xyxy01) for photo in photos]
        found[folder.name] = reader.read(crops, photos[0].class_word)
        words = [word for own in found[folder.name].values() for word in own]
        print(f"{folder.name}: {', '.join(words)}")
    replace_text(ATTRIBUTES, json.dumps(found, indent=2) + "\n")
    report({"subjects": len(found)})


def _reader(params: Params) -> AttributeReader:
    if params.perception.tagger == "clip":
        words = params.subjects.attributes.model_dump()
        return ZeroShotAttributes(_models.clip(params), words)
    return LanguageAttributes(_models.language(params, params.perception.tagger))


if __name__ == "__main__":
    sys.exit(_step.run(main))
