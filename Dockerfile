# An image for the CPU with the wheel that `make wheel` built:
#   make wheel && docker build -t compress-llm .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" compress-llm run path/to/model
# --build-arg PIP_INDEX_URL=… takes the packages from another index, such as one with builds of torch for the CPU.
FROM python:3.12-slim
ARG PIP_INDEX_URL
COPY build/wheel/*.whl /wheel/
RUN pip install --no-cache-dir torch==2.13.0 \
    && pip install --no-cache-dir "$(echo /wheel/*.whl)[all]"
# Files that are kept between runs lie in the folder that is mounted.
ENV HF_HOME=/work/.cache/huggingface COMPRESS_CACHE=/work/.cache/compress
WORKDIR /work
ENTRYPOINT ["compress-llm"]
CMD ["--help"]
