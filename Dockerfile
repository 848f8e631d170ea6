# Serves one finished run's model. Without torch, which serving does not need; for processors, no GPU.
#   docker build --tag pixelfit-serve .
#   docker run --rm --publish 127.0.0.1:8000:8000 --volume "$PWD/runs/mine:/run-folder:ro" --env PIXELFIT_TOKEN=... pixelfit-serve
# The run must have been exported once (pixelfit export RUN), for the folder is mounted to be read alone.
FROM python:3.11-slim-bookworm

WORKDIR /app
COPY docker/requirements.txt constraints.txt ./
RUN pip install --no-cache-dir --requirement requirements.txt --constraint constraints.txt
COPY pyproject.toml README.md LICENSE ./
COPY src ./src
RUN pip install --no-cache-dir --no-deps . \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin pixelfit

USER 10001
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=30s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8000/ready', timeout=2)"]
ENTRYPOINT ["pixelfit", "serve"]
CMD ["/run-folder", "--host", "0.0.0.0", "--port", "8000"]
