"""A provisioning script of the parts that people use today, for the same job on the same devices as the station's.

smpclient speaks to the device, python-pkcs11 to the HSM, cryptography makes and checks certificates, sqlite3 keeps one
row a step, each committed before the next step begins. Prints one JSON object a line: ready, arrived, passed, removed.
"""

import argparse
import asyncio
import hashlib
import json
import logging
import os
import sqlite3
import struct
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from enum import IntEnum

import pkcs11
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pkcs11.util.ec import encode_ecdsa_signature
from smp import error, message
from smpclient import SMPClient
from smpclient.exceptions import SMPClientException
from smpclient.generics import success
from smpclient.requests.os_management import ResetWrite
from smpclient.requests.settings_management import ReadSetting, SaveSettings, WriteSetting
from smpclient.transport.serial import BufferSize, SMPSerialTransport

GROUP = 64
REQUEST, CHAIN = 0, 1
PROOF_PREFIX = b"DPS-STATION-PROOF\0"
BANNER = b"Booting"
ANSWER = 1.0  # seconds until a request is sent again
TRIES = 4


class Code(IntEnum):
    UNKNOWN = 1
    MALFORMED = 2
    SEALED = 3
    NO_OBJECT = 4
    BAD_OFFSET = 5
    TOO_LONG = 6
    BAD_DIGEST = 7
    HOLDS_OTHER = 8
    NO_KEY = 9
    NO_TPM = 10
    TPM_FAILED = 11
    STORAGE_FAILED = 12


class ErrorV1(error.ErrorV1):
    _GROUP_ID = GROUP


class ErrorV2(error.ErrorV2[Code]):
    _GROUP_ID = GROUP


def command(number, write, asked, answered):
    """A request class of the user group, with the class of its reply; every field may be left out."""
    place = {"_GROUP_ID": GROUP, "_COMMAND_ID": number, "__module__": __name__}

    def fields(types):
        optional = {name: kind | None for name, kind in types.items()}
        return place | {"__annotations__": optional} | dict.fromkeys(types)

    bases = (message.WriteRequest, message.WriteResponse) if write else (message.ReadRequest, message.ReadResponse)
    reply = type(f"Reply{number}", bases[1:], fields(answered))
    parts = {"_Response": reply, "_ErrorV1": ErrorV1, "_ErrorV2": ErrorV2}
    return type(f"Request{number}", bases[:1], fields(asked) | parts)


ABOUT = dict(v=int, id=str, model=str, fw=str, uid=bytes, boots=int, sealed=bool, tpm=bool, holds=bytes)
PART = dict(off=int, data=bytes, len=int, sha=bytes)
Identify = command(0, False, {}, ABOUT)
MakeKey = command(1, True, dict(rid=int, cn=str), dict(rid=int, len=int, sha=bytes))
ReadObject = command(2, False, dict(obj=int, off=int), PART)
WriteObject = command(3, True, dict(obj=int) | PART, dict(off=int, sha=bytes))
Sign = command(4, True, dict(rid=int, nonce=bytes), dict(rid=int, sig=bytes))
Seal = command(6, True, dict(rid=int, holds=bytes), dict(rid=int, holds=bytes))


class Failed(Exception):
    """The device is not to pass, and why."""


class HsmKey(ec.EllipticCurvePrivateKey):
    """The CA key in the HSM, as cryptography's builder wants it."""

    def __init__(self, args):
        token = pkcs11.lib(args.module).get_token(token_label=args.token)
        self.session = token.open(user_pin=args.pin)
        self.key = self.session.get_key(pkcs11.ObjectClass.PRIVATE_KEY, label=args.label)

    def sign(self, data, signature_algorithm):
        digest = hashlib.sha256(data).digest()
        return encode_ecdsa_signature(self.key.sign(digest, mechanism=pkcs11.Mechanism.ECDSA))

    curve = ec.SECP256R1()
    key_size = 256

    def exchange(self, algorithm, peer_public_key):
        raise NotImplementedError

    def public_key(self):
        raise NotImplementedError

    def private_numbers(self):
        raise NotImplementedError

    def private_bytes(self, encoding, format, encryption_algorithm):
        raise NotImplementedError

    def __copy__(self):
        return self

    def __deepcopy__(self, memo):
        return self


class Ledger:
    """Rows in SQLite, one a step, durable when `record` returns. One thread has the connection."""

    def __init__(self, path):
        self.thread = ThreadPoolExecutor(1)
        self.thread.submit(self._open, path).result()

    def _open(self, path):
        self.db = sqlite3.connect(path)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.execute("CREATE TABLE IF NOT EXISTS step (at REAL, bay INTEGER, device TEXT, step TEXT, what TEXT)")
        self.db.commit()

    async def record(self, bay, device, step, **what):
        row = (time.time(), bay, device, step, json.dumps(what))
        await asyncio.get_running_loop().run_in_executor(self.thread, self._write, row)

    def _write(self, row):
        with self.db:
            self.db.execute("INSERT INTO step VALUES (?, ?, ?, ?, ?)", row)


class Issuer:
    """Certificates from the CA key in the HSM; one thread speaks to it."""

    def __init__(self, args):
        self.thread = ThreadPoolExecutor(1)
        self.key = self.thread.submit(HsmKey, args).result()
        with open(args.ca, "rb") as file:
            self.ca = x509.load_der_x509_certificate(file.read())

    def draft(self, request, device, serial):
        csr = x509.load_der_x509_csr(request)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
        if not csr.is_signature_valid or csr.subject != name:
            raise Failed("the certificate request is not this device's")
        now = datetime.now(timezone.utc)
        others = ["content_commitment", "key_encipherment", "data_encipherment", "key_agreement"]
        others += ["key_cert_sign", "crl_sign", "encipher_only", "decipher_only"]
        usage = x509.KeyUsage(digital_signature=True, **dict.fromkeys(others, False))
        authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.ca.public_key())
        return (
            x509.CertificateBuilder()
            .subject_name(name).issuer_name(self.ca.subject).public_key(csr.public_key())
            .serial_number(serial)
            .not_valid_before(now - timedelta(minutes=5)).not_valid_after(now + timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(csr.public_key()), critical=False)
            .add_extension(authority, critical=False)
        )

    async def sign(self, draft):
        sign = lambda: draft.sign(self.key, hashes.SHA256())
        leaf = await asyncio.get_running_loop().run_in_executor(self.thread, sign)
        leaf.verify_directly_issued_by(self.ca)
        return leaf


def holds(values):
    return hashlib.sha256(b"".join(struct.pack(">I", len(value)) + value for value in values)).digest()


class Bay:
    def __init__(self, number, args, ledger, issuer):
        self.number, self.args, self.ledger, self.issuer = number, args, ledger, issuer
        self.transport = SMPSerialTransport(BufferSize(args.buf_size, line_length=128))
        self.client = SMPClient(self.transport, f"{args.ports}{number}", timeout_s=ANSWER)
        self.rid = int.from_bytes(os.urandom(3))

    def say(self, event, **more):
        print(json.dumps({"event": event, "bay": self.number, **more}), flush=True)

    async def ask(self, request, tries=TRIES, wait=ANSWER):
        for left in reversed(range(tries)):
            try:
                reply = await self.client.request(request, timeout_s=wait)
            except (TimeoutError, SMPClientException):
                if not left:
                    raise
            else:
                if not success(reply):
                    raise Failed(f"refused: {reply}")
                return reply

    def request_id(self):
        self.rid += 1
        return self.rid

    async def booted(self, wait):
        """Waits for the firmware's banner; where there is none, the device is asked all the same."""
        seen, until = b"", time.monotonic() + wait
        while BANNER not in seen and time.monotonic() < until:
            seen += await self.transport.read_serial()
            await asyncio.sleep(0.002)
        while BANNER in seen and b"\n" not in seen.split(BANNER)[1] and time.monotonic() < until:
            seen += await self.transport.read_serial()
            await asyncio.sleep(0.002)

    async def arrival(self):
        while True:
            await self.booted(0.1)
            try:
                return await self.ask(Identify(), 1, 0.15)
            except (TimeoutError, SMPClientException):
                pass

    async def departure(self, device):
        unheard = 0
        while unheard < 3:
            await asyncio.sleep(0.3)
            try:
                if (await self.ask(Identify(), 1, 0.5)).id != device:
                    return
                unheard = 0
            except (TimeoutError, SMPClientException):
                unheard += 1

    async def read(self, obj):
        reply = await self.ask(ReadObject(obj=obj, off=0))
        data, length, sha = reply.data, reply.len, reply.sha
        while len(data) < length:
            data += (await self.ask(ReadObject(obj=obj, off=len(data)))).data
        if hashlib.sha256(data).digest() != sha:
            raise Failed("an object arrived damaged")
        return data

    async def install(self, chain):
        room, offset, sha = self.transport.max_unencoded_size, 0, hashlib.sha256(chain).digest()
        while offset < len(chain):
            head = dict(len=len(chain), sha=sha) if offset == 0 else {}
            empty = WriteObject(obj=CHAIN, off=offset, data=b"", **head)
            fits = room - len(empty.BYTES) - 2  # a byte string of this size has two bytes more of length
            part = WriteObject(obj=CHAIN, off=offset, data=chain[offset : offset + fits], **head)
            reply = await self.ask(part)
            offset = reply.off
        if reply.sha != sha:
            raise Failed("the device holds another chain than it was given")

    async def job(self, found):
        device = found.id
        record = lambda step, **what: self.ledger.record(self.number, device, step, **what)
        await record("identified", model=found.model, fw=found.fw, uid=found.uid.hex(), boots=found.boots)
        if found.sealed:
            raise Failed("it is sealed")
        await self.ask(MakeKey(rid=self.request_id(), cn=device))
        request = await self.read(REQUEST)
        await record("key read", request=request.hex())
        serial = x509.random_serial_number()
        draft = self.issuer.draft(request, device, serial)
        await record("reserved", serial=f"{serial:x}")
        leaf = await self.issuer.sign(draft)
        der = leaf.public_bytes(Encoding.DER)
        await record("signed", certificate=der.hex())
        chain = der + self.issuer.ca.public_bytes(Encoding.DER)
        await self.install(chain)
        settings = {
            "dps/id_scope": self.args.id_scope.encode(),
            "dps/endpoint": self.args.endpoint.encode(),
            "dps/reg_id": device.encode(),
        }
        for name, value in settings.items():
            await self.ask(WriteSetting(name=name, val=value))
        await self.ask(SaveSettings())
        await record("written")
        await self.ask(ResetWrite())
        await self.booted(ANSWER)
        now = await self.ask(Identify())
        if (now.id, now.uid) != (device, found.uid) or now.boots <= found.boots:
            raise Failed("it is another device, or did not restart")
        await record("restarted", boots=now.boots)
        read = {name: (await self.ask(ReadSetting(name=name))).val for name in settings}
        held = await self.read(CHAIN)
        if (read, held) != (settings, chain):
            raise Failed("it holds something else")
        await record("read back", chain=held.hex(), **{name: value.hex() for name, value in read.items()})
        nonce = os.urandom(32)
        signature = (await self.ask(Sign(rid=self.request_id(), nonce=nonce))).sig
        leaf.public_key().verify(signature, PROOF_PREFIX + nonce, ec.ECDSA(hashes.SHA256()))
        await record("proved", nonce=nonce.hex(), signature=signature.hex())
        digest = holds([*settings.values(), hashlib.sha256(der).digest()])
        sealed = await self.ask(Seal(rid=self.request_id(), holds=digest))
        if sealed.holds != digest:
            raise Failed("it sealed something else")
        await record("passed")
        return device

    async def serve(self):
        await self.transport.connect(self.client._address, ANSWER)
        self.say("ready")
        while True:
            found = await self.arrival()
            self.say("arrived", device=found.id)
            try:
                device = await self.job(found)
                self.say("passed", device=device)
            except Exception as error:  # a verdict like any other: the line goes on
                device = found.id
                await self.ledger.record(self.number, device, "failed", why=str(error))
                self.say("failed", device=device, why=repr(error))
            await self.departure(device)
            self.say("removed")


async def main():
    parser = argparse.ArgumentParser()
    for name in ["ports", "ledger", "module", "token", "label", "pin", "ca", "id-scope", "endpoint"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--bays", type=int, required=True)
    parser.add_argument("--buf-size", type=int, required=True)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    ledger, issuer = Ledger(args.ledger), Issuer(args)
    await asyncio.gather(*(Bay(number, args, ledger, issuer).serve() for number in range(args.bays)))


asyncio.run(main())
