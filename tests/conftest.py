"""Eight CPU devices, so that meshes can be tested on any machine. Set before jax is imported, which is why it stands here."""

import os

os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8".strip()
os.environ["JAX_PLATFORMS"] = "cpu"
