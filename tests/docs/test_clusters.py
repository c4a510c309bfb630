"""The examples for clusters, as far as they can be tried without a cloud: Ray's own rules for such files."""

from __future__ import annotations

from pathlib import Path

import yaml

from tests import tools

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"


@tools.needs("ray")
def test_ray_takes_the_clusters_file() -> None:
    """A head that renders nothing, and machines from none that take one GPU's worker each."""
    from ray.autoscaler._private.util import prepare_config, validate_config  # noqa: PLC0415

    config = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text(encoding="utf-8"))
    prepared = prepare_config(config)
    validate_config(prepared)
    kinds = config["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0}
    assert (kinds["gpu"]["min_workers"], kinds["gpu"]["resources"]) == (0, {"GPU": 1})
    assert all("ImageId" in kind["node_config"] for kind in kinds.values())  # Ray's own choice has no Python for us
    on_the_head = [each for each in prepared["head_setup_commands"] if each not in config["setup_commands"]]
    assert len(on_the_head) == 1  # and not Ray's own, which is for a Python of the system
    assert "boto3" in on_the_head[0]


def test_kuberays_file_names_rays_version_of_the_constraints() -> None:
    """Ray refuses machines of another version than the head's."""
    config = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text(encoding="utf-8"))
    constraints = (DEPLOY.parent / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"ray=={config['spec']['rayVersion']}" in constraints
    (workers,) = config["spec"]["workerGroupSpecs"]
    assert workers["minReplicas"] == 0
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"
