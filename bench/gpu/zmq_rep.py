"""A REP socket of libzmq by ctypes: machines with GPUs and torch need not have pyzmq."""
import ctypes
import ctypes.util

_REP, _LINGER, _RCVTIMEO = 4, 17, 27


class _Message(ctypes.Structure):
    _fields_ = [("reserved", ctypes.c_ubyte * 64)]
    _align_ = 8


def _load():
    library = ctypes.CDLL("libzmq.so.5", use_errno=True)
    for name, result, arguments in (
            ("zmq_ctx_new", ctypes.c_void_p, []), ("zmq_ctx_term", ctypes.c_int, [ctypes.c_void_p]),
            ("zmq_socket", ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int]), ("zmq_close", ctypes.c_int, [ctypes.c_void_p]),
            ("zmq_setsockopt", ctypes.c_int, [ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]),
            ("zmq_connect", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p]),
            ("zmq_send", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]),
            ("zmq_msg_init", ctypes.c_int, [ctypes.c_void_p]), ("zmq_msg_close", ctypes.c_int, [ctypes.c_void_p]),
            ("zmq_msg_recv", ctypes.c_int, [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]),
            ("zmq_msg_data", ctypes.c_void_p, [ctypes.c_void_p]), ("zmq_msg_size", ctypes.c_size_t, [ctypes.c_void_p]),
            ("zmq_errno", ctypes.c_int, []), ("zmq_strerror", ctypes.c_char_p, [ctypes.c_int])):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class Rep:
    """Connects to an engine's address; answers what it asks, one request after the other."""

    def __init__(self, address, timeout_seconds):
        self._zmq = _load()
        self._context = self._zmq.zmq_ctx_new()
        self._socket = self._zmq.zmq_socket(self._context, _REP)
        for option, value in ((_LINGER, 1000), (_RCVTIMEO, int(timeout_seconds * 1000))):
            number = ctypes.c_int(value)
            self._zmq.zmq_setsockopt(self._socket, option, ctypes.byref(number), ctypes.sizeof(number))
        self._check(self._zmq.zmq_connect(self._socket, address.encode()))

    def receive(self):
        message = _Message()
        self._zmq.zmq_msg_init(ctypes.byref(message))
        try:
            self._check(self._zmq.zmq_msg_recv(ctypes.byref(message), self._socket, 0))
            return ctypes.string_at(self._zmq.zmq_msg_data(ctypes.byref(message)), self._zmq.zmq_msg_size(ctypes.byref(message)))
        finally:
            self._zmq.zmq_msg_close(ctypes.byref(message))

    def send(self, data):
        self._check(self._zmq.zmq_send(self._socket, data, len(data), 0))

    def close(self):
        self._zmq.zmq_close(self._socket)
        self._zmq.zmq_ctx_term(self._context)

    def _check(self, result):
        if result < 0:
            raise OSError(self._zmq.zmq_strerror(self._zmq.zmq_errno()).decode())
