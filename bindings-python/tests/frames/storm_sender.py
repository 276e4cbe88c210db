"""Sends signals that ask for samples to all threads of another process, as fast as asked for: PID SIGNAL HZ. From outside,
since the interpreter's lock would hold a sender inside back where it hurts most."""

import ctypes
import os
import random
import struct
import sys
import time

pid, signal, hz = map(int, sys.argv[1:])
libc = ctypes.CDLL(None, use_errno=True)
RT_TGSIGQUEUEINFO = {"x86_64": 297, "aarch64": 240}[os.uname().machine]
SI_TIMER, DISCOVERY = -2, 0x65766572
info = struct.pack("=iiiiiiQ", signal, 0, SI_TIMER, 0, 0, 0, DISCOVERY).ljust(128, b"\0")

sent, begin = 0, time.monotonic()
try:
    while True:
        tids = [int(tid) for tid in os.listdir(f"/proc/{pid}/task")]
        for _ in range(50):
            libc.syscall(RT_TGSIGQUEUEINFO, pid, random.choice(tids), signal, info)
            sent += 1
        ahead = sent / hz - (time.monotonic() - begin)
        if ahead > 0.001:
            time.sleep(ahead)
except (FileNotFoundError, ProcessLookupError, KeyboardInterrupt):
    pass
