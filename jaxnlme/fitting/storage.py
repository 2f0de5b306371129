"""Saving and loading fits: tables, numbers and data in a zip that is read without running code; functions separately.

Sections of "fit.json" (format 3; `jaxnlme.files` describes the archive, `encoding` the values):

- "model": the declaration in words, the names of its parameters and effects, and a digest of what it computes.
- "estimation": the fields of a fit, among them parameters, status, options, versions, history.
- "tables": by name, each with "level" (the grouping level it describes, None for the population), "axis" (of its rows:
  "parameters", "effects", "groups") and "endpoint" (None: all).
- "data": the fields of the GroupedData; "digest" of its values.
- "summary": the page as text and HTML.
- "sampling": what a stochastic method leaves; None for others.
- "posterior": the draws of a posterior sampler; None for others, and not in files of versions before them.

"model.cloudpickle" holds the model with the user's functions. It is the only part that is a pickle, and it is read with
`trust_code=True` only. Sections, tables, arrays and members that this version does not know are kept, and written
again when the loaded fit is saved.
"""

from __future__ import annotations

import dataclasses
import pickle
import warnings
from pathlib import Path
from typing import Any

import jax

from jaxnlme.arguments import check_flag, check_path
from jaxnlme.binding.bind import Binding, bind
from jaxnlme.binding.model import NLMEModel
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import JaxnlmeError, OptionError
from jaxnlme.estimators.core.record import versions
from jaxnlme.files import CONTENT_ERRORS, Archive, read_archive, unreadable, write_archive
from jaxnlme.fitting.encoding import Decoder, Encoder, NotLoaded
from jaxnlme.fitting.fit import Fit, fit_class
from jaxnlme.fitting.same_model import check_model
from jaxnlme.fitting.stored_code import code_of, read_code
from jaxnlme.fitting.stored_fit import StoredFit
from jaxnlme.fitting.stored_sections import TABLES, sections_of
from jaxnlme.model.params import Params
from jaxnlme.precision import x64
from jaxnlme.results.posterior.record import Posterior
from jaxnlme.results.stochastic import Sampling
from jaxnlme.signatures import public

FORMAT = 3
CODE = "model.cloudpickle"
SECTIONS = ("model", "estimation", "tables", "data", "summary", "sampling")
KNOWN = (*SECTIONS, "posterior")


def save(fit: Fit, path: str | Path) -> Path:
    """Writes a fit to `path`, so that another process can load it.

    Functions and classes of the user's own modules (neither installed packages nor the standard library) go into the
    file whole, with the functions they call. A model that holds what cannot be stored, such as a lock or an open file,
    is left out, with a warning. The file replaces an earlier one only when it is complete.

    **Arguments:** `fit`; `path` of the file.
    **Returns:** the path.
    **Raises:** OptionError where the file cannot be written there.
    """
    path = check_path("path", path)
    encoder = Encoder()
    document = sections_of(fit, encoder)
    members, missing = {}, ""
    try:
        members[CODE] = code_of(fit, encoder.objects)
    except pickle.PicklingError as error:
        missing = str(error)
    kept = fit.unknown_sections
    if kept is not None:
        document = kept.document | document
        document["tables"] = kept.document.get("tables", {}) | document["tables"]
        members = kept.members | members
    arrays = encoder.arrays if kept is None else kept.arrays | encoder.arrays
    write_archive(path, "fit", FORMAT, versions()["jaxnlme"], Archive(document, arrays, members))
    if missing:
        warnings.warn(
            f"{path} holds the numbers of the fit without the code of its model, because {missing}; jn.load(path, "
            "model=model) gives the whole fit.",
            stacklevel=3,
        )
    return path


@public("jn.load")
def load(path: str | Path, *, model: NLMEModel | None = None, trust_code: bool = False) -> Fit | StoredFit:
    """The fit in a file that `Fit.save` wrote.

    **Arguments:**

    - `path` of the file. Without more, numbers and tables are read, and no code of the file is run.
    - `model`: the model that was fitted, declared anew: with it predictions, simulations, residuals, refits and
      updates work. No code of the file is run.
    - `trust_code`: True unpickles the model that the file holds, which runs code of whoever wrote the file. Only for
      files that you trust.

    **Returns:** a Fit where the model is there, else a StoredFit with its tables.
    **Raises:** MissingFileError where there is none; OptionError, in one sentence, for a file that is damaged, cut
    short, of another kind or version, for a model that is not the file's, and for a module that is missing.

    **Example:**

    ```python
    fit.save("theophylline.jaxnlme")
    loaded = jn.load("theophylline.jaxnlme", model=model)
    ```
    """
    path, trust_code = check_path("path", path), check_flag("trust_code", trust_code)
    if model is not None and not isinstance(model, NLMEModel):
        raise OptionError(f"model must be a jn.NLMEModel, or None; received a {type(model).__name__}.")
    if model is not None and trust_code:
        raise OptionError("give model= or trust_code=True, not both: with a model the code in the file is not needed.")
    archive = read_archive(path, "fit", FORMAT, versions()["jaxnlme"])
    code = read_code(path, archive.members[CODE]) if trust_code and CODE in archive.members else None
    if trust_code and code is None:
        raise OptionError(f"{path} holds no code; pass the model: jn.load(path, model=model).")
    try:
        missing = [name for name in SECTIONS if name not in archive.document]
        if missing:
            raise ValueError(f"it lacks the section {missing[0]!r}")
        if code is None and model is None:
            return _stored(path, archive)
        objects = None if code is None else code["objects"]
        return _fit(path, archive, code["model"] if code is not None else model, objects, code)
    except JaxnlmeError:
        raise
    except CONTENT_ERRORS as error:
        raise unreadable(path, "fit", error) from error


def save_again(archive: Archive, path: str | Path) -> Path:
    """Writes the content of a file that was read, as it was, to `path`.

    **Returns:** the path.
    **Raises:** OptionError where the file cannot be written there.
    """
    path = check_path("path", path)
    write_archive(path, "fit", FORMAT, versions()["jaxnlme"], archive)
    return path


def _stored(path: Path, archive: Archive) -> StoredFit:
    """A StoredFit of an archive."""
    decoder = Decoder(archive.arrays)
    document = archive.document
    tables = {name: decoder.decode(document["tables"][name]["content"]) for name in TABLES}
    estimation = decoder.decode(document["estimation"])
    return StoredFit(
        model=document["model"],
        estimation=estimation,
        tables=tables,
        page=document["summary"],
        fingerprint=document["data"]["digest"],
        data=_data(path, document, decoder),
        archive=archive,
    )


def _data(path: Path, document: dict[str, Any], decoder: Decoder) -> GroupedData:
    fields = decoder.decode(document["data"]["fields"])
    for label in fields["labels"].tolist():
        if isinstance(label, NotLoaded):
            raise OptionError(
                f"{path}: the group labels are of the type {label.description}, which only the code in the file brings "
                "back; load it with trust_code=True if you trust the file, or label the groups by text or numbers."
            )
    data = GroupedData(**fields)
    if data.fingerprint() != document["data"]["digest"]:
        raise ValueError("its data do not agree with their digest")
    return data


def _fit(path: Path, archive: Archive, model: Any, objects: list[Any] | None, code: dict[str, Any] | None) -> Fit:
    """The Fit of an archive with its model."""
    decoder, document = Decoder(archive.arrays, objects), archive.document
    data = _data(path, document, decoder)
    with x64():
        stored_binding = None if code is None else code["binding"]
        binding = bind(model, data) if stored_binding is None else stored_binding
    if code is None:
        check_model(path, binding, document)
    fields = decoder.decode(document["estimation"])
    del fields["criteria"], fields["iterations"]
    fields["params"] = _params(fields["params"], binding)
    fields["status"] = dataclasses.replace(fields["status"], sentences=tuple(fields["status"].sentences))
    sampling = _sampling(document["sampling"], decoder, binding)
    section = document.get("posterior")
    posterior = None if section is None else Posterior(binding=binding, **decoder.decode(section))
    kind = fit_class(model)
    fit = kind(
        binding=binding, fingerprint=document["data"]["digest"], sampling=sampling, posterior=posterior, **fields
    )
    return fit.with_unknown_sections(_unknown(archive))


def _params(parts: dict[str, Any], binding: Binding) -> Params:
    free = binding.start.free
    if free is not None or parts["free"]:
        free = jax.tree.unflatten(jax.tree.structure(free), parts["free"])
    return Params(parts["beta"], parts["covariance"], parts["error"], free)


def _sampling(section: Any, decoder: Decoder, binding: Binding) -> Sampling | None:
    if section is None:
        return None
    fields = decoder.decode(section)
    replicates = tuple(
        dataclasses.replace(replicate, params=Params(**replicate.params, free=binding.start.free))
        for replicate in fields.pop("replicates")
    )
    return Sampling(binding=binding, replicates=replicates, **fields)


def _unknown(archive: Archive) -> Archive | None:
    """The parts of an archive that this version does not write; None where there is nothing."""
    document = {name: section for name, section in archive.document.items() if name not in KNOWN}
    tables = {name: table for name, table in archive.document["tables"].items() if name not in TABLES}
    arrays = {
        name: array
        for name, array in archive.arrays.items()
        if name.split("/")[0] not in KNOWN or (name.startswith("tables/") and name.split("/")[1] in tables)
    }
    members = {name: content for name, content in archive.members.items() if name != CODE}
    if tables:
        document["tables"] = tables
    return Archive(document, arrays, members) if document or arrays or members else None
