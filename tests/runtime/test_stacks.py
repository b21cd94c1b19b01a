"""Stacks: members against the same phases alone, stops and resumes, what does not stack."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load
from torch import Tensor

from kdplan.compile import Compiled, compile_source, inspect
from kdplan.diagnostics.span import Source
from kdplan.runtime import stacked
from kdplan.runtime.events import NoEvents
from kdplan.runtime.execute import RunResult, run_plan
from kdplan.runtime.facts import StoreFacts
from kdplan.runtime.interrupt import Interrupt
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Artifact, Store
