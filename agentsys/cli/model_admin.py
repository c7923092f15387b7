"""Asking a running model server about its models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentsys.errors import ServingError

if TYPE_CHECKING:
    from httpx import Response


class ModelServerError(ServingError):
    """A model server cannot be asked about its models, or refused."""

    code = "AGS-0469"
    remedy = "Start one with `agentsys models serve`, or name it with --url; a server with a token needs --token."


def ask_server(method: str, url: str, token: str | None, path: str, model: str | None) -> list[dict[str, Any]]:
    """Return what the server says of its models, after loading or unloading one. Raises :class:`ModelServerError`.

    Proxies of the environment are not used: they would learn the token.
    """
    import httpx
    from pydantic import TypeAdapter, ValidationError

    base = url.rstrip("/").removesuffix("/v1")
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    params = {} if model is None else {"model": model}
    try:
        # Loading a model may take minutes.
        response = httpx.request(
            method, f"{base}/admin/models{path}", headers=headers, params=params, timeout=600, trust_env=False
        )
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as error:
        raise ModelServerError(f"{base} cannot be reached: {error or type(error).__name__}.") from error
    if not response.is_success:
        raise _refusal(base, response)
    try:
        return TypeAdapter(list[dict[str, Any]]).validate_json(response.content)
    except ValidationError as error:
        raise ModelServerError(f"{base} is no model server: it tells of no models.") from error


def _refusal(base: str, response: Response) -> ModelServerError:
    """Return what a server said, in its own words where it has our form of errors."""
    try:
        told = response.json()["error"]
        remedy = str(told["remedy"])
        message = f"{base} says {told['code']}: {str(told['message']).removesuffix(remedy).strip()}"
    except (ValueError, LookupError, TypeError):
        return ModelServerError(f"{base} answered HTTP {response.status_code}: {response.text.strip()[:300]}.")
    return ModelServerError(message, remedy=remedy)
