"""An application's entry in Serve's declarative configuration. Pure."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from raysaas.records import Release
from raysaas.serving.contract import feature_columns
from raysaas.serving.spec import DEPLOYMENT, AppSpec, EventSource
from raysaas.settings import OnContract, Settings
from raysaas.stores.online import online_ttls, online_views


def app_config(settings: Settings, release: Release, import_path: str) -> dict[str, Any]:
    """The use case's entry of Serve's config file; ``import_path`` names a function that calls ``app.build``."""
    use_case = settings.use_case
    spec = AppSpec(
        use_case=use_case.name,
        task=use_case.task,
        title=use_case.title,
        storage=settings.storage,
        serve=settings.serve,
        views=tuple(online_views(use_case)),
        ttls_s=online_ttls(use_case),
        events={name: EventSource.of(source) for name, source in use_case.sources.items() if source.events},
        contract=feature_columns(use_case) if settings.serve.contract is OnContract.refuse else {},
    )
    return {
        "name": use_case.name,
        "route_prefix": f"/{use_case.name}",
        "import_path": import_path,
        "args": spec.to_dict() | {"drift": asdict(settings.drift), "release": asdict(settings.release)},
        "deployments": [{"name": DEPLOYMENT, "user_config": release_config(release)}],
    }


def release_config(release: Release) -> dict[str, Any]:
    """What of a release the replicas need: the application's ``user_config``."""
    return {
        "sequence": release.sequence,
        "champion": asdict(release.champion),
        "variants": [{"name": one.name, "share": one.share, **asdict(one.arm)} for one in release.variants],
        "shadow": asdict(release.shadow) if release.shadow else None,
        "tenants": {tenant: asdict(arm) for tenant, arm in release.tenants.items()},
        "experiment": release.experiment,
    }


def configs(details: Mapping[str, Any]) -> dict[str, Any]:
    """What is deployed, by application name, from the details that Serve gives."""
    apps = details["applications"].items()
    return {name: app["deployed_app_config"] for name, app in apps if app["deployed_app_config"] is not None}


def with_release(app: Mapping[str, Any], user_config: Mapping[str, Any]) -> dict[str, Any]:
    """The application with another release in it."""
    others = [entry for entry in app.get("deployments", []) if entry["name"] != DEPLOYMENT]
    mine = next(
        (dict(entry) for entry in app.get("deployments", []) if entry["name"] == DEPLOYMENT), {"name": DEPLOYMENT}
    )
    return {**app, "deployments": [*others, {**mine, "user_config": dict(user_config)}]}


def wanted(app: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The release that an application's entry asks for."""
    entries = (entry for entry in app.get("deployments", []) if entry["name"] == DEPLOYMENT)
    return next((entry.get("user_config") for entry in entries), None)
