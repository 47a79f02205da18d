"""What pyproject.toml can't say: the folder `configs/` is installed as `effdet_jax/configs`."""

from setuptools import find_namespace_packages, setup

setup(
    packages=[*find_namespace_packages(include=["effdet_jax*"]), "effdet_jax.configs"],
    package_dir={"effdet_jax.configs": "configs"},
)
