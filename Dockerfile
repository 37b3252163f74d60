# An image for NVIDIA GPUs: docs/accelerators.md. CUDA's libraries come as wheels.
FROM python:3.12-slim
ARG ACCELERATOR=cuda13
WORKDIR /opt/auxseg_jax
COPY . .
RUN pip install --no-cache-dir -r requirements.txt ".[${ACCELERATOR}]"
ENTRYPOINT ["auxseg"]
