"""From a study's configuration to its arms: arms on one base share one engine, and so one copy of the weights."""

from __future__ import annotations

from pathlib import Path

from extes.arms.arm import Arm, Sampling
from extes.arms.local import Engine, LocalArm
from extes.arms.remote import RemoteArm
from extes.arms.scripted import ScriptedArm
from extes.study.config import ArmConfig, Generation, Study

ROOT = Path(__file__).resolve().parent.parent.parent


def build(study: Study) -> dict[str, Arm]:
    """The arms by name; nothing is loaded yet."""
    engines: dict[str, Engine] = {}
    return {config.name: _arm(config, engines, study.generation) for config in study.arms}


def _arm(config: ArmConfig, engines: dict[str, Engine], generation: Generation) -> Arm:
    sampling = Sampling(**config.sampling.model_dump())
    match config.kind:
        case "local":
            engine = engines.setdefault(
                config.base, Engine(_source(config.base), max_new_tokens=generation.max_new_tokens)
            )
            if config.adapter:
                engine.adapters[config.name] = _source(config.adapter)
            return LocalArm(config.name, engine, config.name if config.adapter else "", sampling, config.system_prompt)
        case "remote":
            return RemoteArm(
                config.name,
                config.base_url,
                config.model,
                sampling,
                config.system_prompt,
                config.api_key_variable,
                generation.deadline_seconds,
                config.limit_field,
            )
        case "scripted":
            return ScriptedArm(config.name, config.replies, config.delay)


def _source(name: str) -> str:
    """A folder of this project where there is one, else a Hub repository's name."""
    return str(ROOT / name) if (ROOT / name).is_dir() else name
