import socket

from tools.readers.stalled import unread_bytes


def test_unread_bytes_are_those_that_were_written_and_not_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)) as client:
            served, address = listener.accept()
            with served:
                served.sendall(bytes(1000))
                assert unread_bytes(port)[address[1]] == 1000
                client.recv(400)
                assert unread_bytes(port)[address[1]] == 600
