"""The SuperLink's layers that messages are led past: what is relied on in Flower 1.41, and who passes none of them."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import pytest
from flwr.supercore.protobuf.translation import PROTOBUF_REQUEST_TYPES
from flwr.supercore.routers.runtime.tracing import RuntimeTracingMiddleware
from flwr.superlink import main as superlink_main
from flwr.superlink.routers.control import middlewares as control
from flwr.superlink.routers.fleet.middlewares import FleetEventLogMiddleware
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from starlette.middleware.base import BaseHTTPMiddleware

from tacit_server.superlink_child import _PLAIN, _skip, _unburden


class _Layer:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        scope["through"] = True
        await self.app(scope, receive, send)


async def _end(scope: Any, receive: Any, send: Any) -> None:
    scope["ended"] = True


def test_messages_pass_and_every_other_request_goes_through():
    layer = type("Layer", (_Layer,), {})
    _skip(layer)
    plain = sorted(_PLAIN)
    others = ["/v1/control/list-runs", "/v1/fleet/register-node", "/v1/runtime/pull-task-input", f"{plain[0]}/x", "/"]
    for path in (*plain, *others):
        scope: dict[str, Any] = {"type": "http", "path": path}
        asyncio.run(layer(_end)(scope, None, None))
        assert scope["ended"]
        assert ("through" in scope) == (path not in _PLAIN)
    lifespan: dict[str, Any] = {"type": "lifespan"}
    asyncio.run(layer(_end)(lifespan, None, None))
    assert lifespan["through"]


def test_the_paths_are_flower_s_calls_of_messages():
    assert len(_PLAIN) == 10
    for path in _PLAIN:
        assert ("POST", path) in PROTOBUF_REQUEST_TYPES
        assert not path.startswith("/v1/control/")


def test_no_layer_that_admits_or_translates_is_led_past(monkeypatch):
    """Guarantee: the signature of a node and the token of a task are asked for as before."""
    used = [layer.cls for layer in superlink_main._get_middleware()]
    before = {layer: layer.__call__ for layer in used}
    changed = [
        control.ControlSensitiveResponseMiddleware,
        control.ControlAuthenticationMiddleware,
        control.ControlLicenseMiddleware,
        control.ControlEventLogMiddleware,
        FleetEventLogMiddleware,
        RuntimeTracingMiddleware,
    ]
    for layer in changed:
        monkeypatch.setattr(layer, "__call__", layer.__call__)  # put back after the test
    _unburden()
    assert {layer for layer in used if layer.__call__ is not before[layer]} == set(changed)
    assert NodeAuthMiddleware in used


@pytest.mark.parametrize("layer", [control.ControlAuthenticationMiddleware, control.ControlLicenseMiddleware])
def test_the_control_layers_look_at_control_paths_alone(layer):
    assert issubclass(layer, BaseHTTPMiddleware)
    assert "_is_control_path(request.url.path)" in inspect.getsource(layer)
