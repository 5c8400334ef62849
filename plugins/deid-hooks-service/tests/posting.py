"""A load on the service."""

from __future__ import annotations

import threading
import time

import httpx
from running import Site, packfile


class Posting:
    """Threads that post packfile after packfile, and note the ids they were given."""

    def __init__(self, site: Site, threads: int = 6) -> None:
        self.ids: list[str] = []
        self.others: list[int] = []
        self._stop = threading.Event()
        token = site.token("upload")
        self._threads = [
            threading.Thread(target=self._post, args=(site, token, n)) for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()
        while len(self.ids) < 50:
            time.sleep(0.01)

    def _post(self, site: Site, token: str, number: int) -> None:
        count = 0
        with site.client(token) as client:
            while not self._stop.is_set():
                count += 1
                body = packfile(PatientID=f"{number}-{count}")
                try:
                    answer = client.post("/logs", json=body)
                except httpx.HTTPError:
                    return
                if answer.status_code == 200:
                    self.ids.append(answer.json()["id"])
                else:
                    self.others.append(answer.status_code)

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
