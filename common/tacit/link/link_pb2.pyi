from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Enrolment(_message.Message):
    __slots__ = ("name", "request", "identity", "proof")
    NAME_FIELD_NUMBER: _ClassVar[int]
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    PROOF_FIELD_NUMBER: _ClassVar[int]
    name: str
    request: bytes
    identity: bytes
    proof: bytes
    def __init__(self, name: _Optional[str] = ..., request: _Optional[bytes] = ..., identity: _Optional[bytes] = ..., proof: _Optional[bytes] = ...) -> None: ...

class Renewal(_message.Message):
    __slots__ = ("request",)
    REQUEST_FIELD_NUMBER: _ClassVar[int]
    request: bytes
    def __init__(self, request: _Optional[bytes] = ...) -> None: ...

class Membership(_message.Message):
    __slots__ = ("certificate", "roster")
    CERTIFICATE_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    certificate: bytes
    roster: SignedRoster
    def __init__(self, certificate: _Optional[bytes] = ..., roster: _Optional[_Union[SignedRoster, _Mapping]] = ...) -> None: ...

class SignedRoster(_message.Message):
    __slots__ = ("version", "peers", "signature")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    SIGNATURE_FIELD_NUMBER: _ClassVar[int]
    version: int
    peers: _containers.RepeatedCompositeFieldContainer[Peer]
    signature: bytes
    def __init__(self, version: _Optional[int] = ..., peers: _Optional[_Iterable[_Union[Peer, _Mapping]]] = ..., signature: _Optional[bytes] = ...) -> None: ...

class Peer(_message.Message):
    __slots__ = ("name", "identity")
    NAME_FIELD_NUMBER: _ClassVar[int]
    IDENTITY_FIELD_NUMBER: _ClassVar[int]
    name: str
    identity: bytes
    def __init__(self, name: _Optional[str] = ..., identity: _Optional[bytes] = ...) -> None: ...

class Greeting(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class Presence(_message.Message):
    __slots__ = ("session", "version", "device")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DEVICE_FIELD_NUMBER: _ClassVar[int]
    session: str
    version: str
    device: str
    def __init__(self, session: _Optional[str] = ..., version: _Optional[str] = ..., device: _Optional[str] = ...) -> None: ...

class Notice(_message.Message):
    __slots__ = ("welcome", "waiting")
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    waiting: Ticket
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ..., waiting: _Optional[_Union[Ticket, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("node", "clock", "roster", "mark")
    NODE_FIELD_NUMBER: _ClassVar[int]
    CLOCK_FIELD_NUMBER: _ClassVar[int]
    ROSTER_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    node: int
    clock: float
    roster: SignedRoster
    mark: bytes
    def __init__(self, node: _Optional[int] = ..., clock: _Optional[float] = ..., roster: _Optional[_Union[SignedRoster, _Mapping]] = ..., mark: _Optional[bytes] = ...) -> None: ...

class Ticket(_message.Message):
    __slots__ = ("session", "message")
    SESSION_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    session: str
    message: str
    def __init__(self, session: _Optional[str] = ..., message: _Optional[str] = ...) -> None: ...

class Piece(_message.Message):
    __slots__ = ("envelope", "object", "data")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    envelope: Envelope
    object: Object
    data: bytes
    def __init__(self, envelope: _Optional[_Union[Envelope, _Mapping]] = ..., object: _Optional[_Union[Object, _Mapping]] = ..., data: _Optional[bytes] = ...) -> None: ...

class Envelope(_message.Message):
    __slots__ = ("ticket", "message", "tree", "mark")
    TICKET_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    TREE_FIELD_NUMBER: _ClassVar[int]
    MARK_FIELD_NUMBER: _ClassVar[int]
    ticket: Ticket
    message: bytes
    tree: bytes
    mark: bytes
    def __init__(self, ticket: _Optional[_Union[Ticket, _Mapping]] = ..., message: _Optional[bytes] = ..., tree: _Optional[bytes] = ..., mark: _Optional[bytes] = ...) -> None: ...

class Object(_message.Message):
    __slots__ = ("id", "length")
    ID_FIELD_NUMBER: _ClassVar[int]
    LENGTH_FIELD_NUMBER: _ClassVar[int]
    id: str
    length: int
    def __init__(self, id: _Optional[str] = ..., length: _Optional[int] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("late",)
    LATE_FIELD_NUMBER: _ClassVar[int]
    late: bool
    def __init__(self, late: bool = ...) -> None: ...
