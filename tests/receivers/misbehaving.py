"""An archive of our own that behaves as it is told: a stand-in for those that do it by themselves.

python misbehaving.py PORT FOLDER HOW [CERTIFICATE KEY OTHERS]
"""

from __future__ import annotations

import os
import ssl
import sys
import time
from pathlib import Path
from typing import Any

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.sop_class import CTImageStorage, Verification  # type: ignore[attr-defined]

_STATUS = {"refuses": 0xA700, "warns": 0xB000, "knows it": 0x0111}


def main(port: int, folder: Path, how: str, *certificates: str) -> None:
    received = 0
    hated: list[str] = []

    def store(event: Any) -> int:
        nonlocal received
        received += 1
        uid = str(event.request.AffectedSOPInstanceUID)
        if how == "aborts at one" and (received == 2 or uid in hated):
            hated.append(uid)
            event.assoc.abort()
            return 0
        if how == "aborts" and received == 3:
            event.assoc.abort()
            return 0
        if how == "says nothing" and received == 3:
            time.sleep(60)
        if how == "dies" and received == 3:
            os._exit(1)
        if how == "answers twice, then refuses":
            if received > 1:
                return 0xA700
            answer = C_STORE()
            answer.MessageIDBeingRespondedTo = event.request.MessageID
            answer.AffectedSOPClassUID = event.request.AffectedSOPClassUID
            answer.AffectedSOPInstanceUID = event.request.AffectedSOPInstanceUID
            answer.Status = 0
            event.assoc.dimse.send_msg(answer, event.context.context_id)
        if how == "is slow":
            time.sleep(0.2)
        if how == "refuses some" and received % 2:
            return 0xA700
        if how in ("refuses", "knows it"):
            return _STATUS[how]
        path = folder / f"{event.request.AffectedSOPInstanceUID}.dcm"
        path.write_bytes(event.encoded_dataset())
        return _STATUS.get(how, 0)

    entity = AE("ARCHIVE")
    entity.require_called_aet = how == "rejects"
    if how == "rejects":
        entity.ae_title = "ANOTHER"
    contexts = AllStoragePresentationContexts if how != "takes CT only" else []
    for context in contexts:
        entity.add_supported_context(str(context.abstract_syntax))
    if how == "takes CT only":
        entity.add_supported_context(CTImageStorage)
    entity.add_supported_context(Verification)
    server = entity.start_server(
        ("127.0.0.1", port),
        block=False,
        ssl_context=trusting(*certificates) if certificates else None,
        evt_handlers=[(evt.EVT_C_STORE, store)],
    )
    print("ready", flush=True)
    sys.stdin.read()
    assert server is not None
    server.shutdown()


def trusting(own: str, key: str, others: str) -> ssl.SSLContext:
    """TLS with nobody but those whose certificate is known."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=others)
    context.load_cert_chain(own, key)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
