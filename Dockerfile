# The app on the bundled model, as an unprivileged user. Data live in the volume /data.
FROM python:3.11-slim

RUN useradd --create-home --uid 10001 trace && install -d -m 700 -o trace -g trace /data
WORKDIR /srv/trace
COPY requirements.txt constraints.txt ./
# Choose your torch build here (README, "Your own torch").
ARG TORCH=torch==2.13.0
RUN grep -v '^torch==' constraints.txt > /tmp/constraints.txt \
  && pip install --no-cache-dir ${TORCH} && pip install --no-cache-dir -c /tmp/constraints.txt -r requirements.txt
COPY . .
# With the login's packages, which TRACE_LOGIN asks for; its secrets are mounted, never copied (SECURITY.md, "For a team").
RUN pip install --no-cache-dir -c /tmp/constraints.txt '.[login]'

USER trace
# Without an address to print, Streamlit would ask the internet for this machine's at every start.
ENV TRACE_HOME=/data PYTHONUNBUFFERED=1 STREAMLIT_BROWSER_SERVER_ADDRESS=localhost
VOLUME /data
EXPOSE 8501
HEALTHCHECK --interval=30s --timeout=5s --start-period=20s \
  CMD ["python", "-c", "import os, urllib.request; told = os.environ.get; path = told('STREAMLIT_SERVER_BASE_URL_PATH', '').strip('/'); urllib.request.urlopen('http://127.0.0.1:' + (told('STREAMLIT_SERVER_PORT') or '8501') + (path and '/' + path) + '/_stcore/health', timeout=4)"]
# Inside the container the server must listen on every interface; publish the port on localhost: -p 127.0.0.1:8501:8501
CMD ["streamlit", "run", "streamlit_app.py", "--server.address", "0.0.0.0", "--server.headless", "true"]
