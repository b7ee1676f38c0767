"""Settings of every test, before anything loads torch.

One thread a process: tests start workers, servers and a browser beside each other, and on two cores
waiting threads that spin cost far more than a second thread gives (design/LOG.md).
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
