"""Commands: each stage reads its parameters and its folder, calls features/ and models/, writes its own folder.

Importing the package sets what every process of a run needs, before any library that reads it is imported.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # busy-waiting threads made small fits 10 to 30 times slower
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")
os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # a server that is down cost 247 s with the defaults
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
