"""Bundles as TensorFlow Serving wants them: `models.config`, and a folder tree to mount into its image."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Literal

from google.protobuf import text_format

from serving.bundle import Model
from serving.errors import ServingError
from serving.messages import POOL, ModelServerConfig
from serving.warmup import WARMUP, write_warmup

MODELS_CONFIG = "models.config"

Policy = Literal["latest", "all"] | Sequence[int]
"""Which versions TensorFlow Serving loads: the newest, all, or those listed."""


def models_config(models: Iterable[Model], policy: Policy = "latest", root: PurePath | None = None) -> str:
    """Return the text for `tensorflow_model_server --model_config_file=`.

    Args:
        models: What to serve.
        policy: Which versions to load.
        root: Folder of the model folders as TensorFlow Serving sees it, such as `/models` inside its image;
            by default they are where they are.

    Raises:
        ServingError: The versions of a model lie in different folders, or a listed version does not exist.
    """
    config = ModelServerConfig()
    for model in models:
        base_path = root / model.name if root else base_folder(model)
        entry = config.model_config_list.config.add(
            name=model.name, base_path=str(base_path), model_platform="tensorflow"
        )
        _set_policy(entry.model_version_policy, model, policy)
    return text_format.MessageToString(config, descriptor_pool=POOL)


def base_folder(model: Model) -> Path:
    """Return the one folder that holds the versions of a model.

    Raises:
        ServingError: They lie in several folders.
    """
    folders = sorted({bundle.path.resolve().parent for bundle in model.versions})
    if len(folders) > 1:
        raise ServingError(
            f"the versions of {model.name!r} lie in several folders ({', '.join(map(str, folders))}); "
            "write_layout brings them together"
        )
    return folders[0]


def write_layout(
    models: Sequence[Model],
    out: Path,
    policy: Policy = "latest",
    root: PurePath | None = None,
    link: bool = False,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write `out/NAME/VERSION/` with warm-up records for every bundle, and `out/models.config`.

    The tree is made under a temporary name and renamed when complete.

    Args:
        models: What to write.
        out: Folder to make; it must not exist.
        policy: Which versions TensorFlow Serving loads.
        root: Where TensorFlow Serving sees `out`; by default where it is.
        link: Hard links in place of copies; on one file system only.
        files: Text of further files beside `models.config`, by name.

    Returns:
        Path of `models.config`.

    Raises:
        ServingError: `out` exists, or a file cannot be copied or linked.
    """
    out = out.resolve()
    if out.exists():
        raise ServingError(f"{out} exists already; name another folder or remove it")
    text = models_config(models, policy, root or out)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise ServingError(f"cannot write {out}: {error}") from None
    try:
        for model in models:
            for bundle in model.versions:
                folder = unfinished / model.name / str(bundle.version)
                shutil.copytree(bundle.path, folder, copy_function=os.link if link else shutil.copy2)
                if not (folder / WARMUP).exists():
                    write_warmup(bundle, folder)
        for name, content in ({MODELS_CONFIG: text} | dict(files or {})).items():
            (unfinished / name).write_text(content)
        unfinished.chmod(0o755)
        unfinished.rename(out)
    except OSError as error:
        raise ServingError(f"cannot write {out}: {error}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return out / MODELS_CONFIG


def _set_policy(message: object, model: Model, policy: Policy) -> None:
    fields: dict[str, dict[str, object]]
    if policy == "latest":
        fields = {"latest": {"num_versions": 1}}
    elif policy == "all":
        fields = {"all": {}}
    else:
        existing = {bundle.version for bundle in model.versions}
        missing = [version for version in policy if version not in existing]
        if missing or not policy:
            raise ServingError(
                f"model {model.name!r} has versions {sorted(existing)}, received {list(policy)}"
            )
        fields = {"specific": {"versions": list(policy)}}
    message.MergeFrom(type(message)(**fields))  # type: ignore[attr-defined]
