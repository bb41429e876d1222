"""Certificates in a folder, and what servers and clients are told of them."""

import ssl
import subprocess


def make_certificates(folder):
    """An authority and a certificate of it that names no host, as those of clusters rarely do."""
    request = ["req", "-newkey", "rsa:2048", "-nodes"]
    authority = ["-x509", "-subj", "/CN=authority", "-keyout", "ca.key", "-out", "ca.crt"]
    shard = ["-subj", "/CN=shard", "-keyout", "shard.key", "-out", "shard.csr"]
    sign = ["x509", "-req", "-in", "shard.csr", "-CA", "ca.crt", "-CAkey", "ca.key"]
    sign += ["-CAcreateserial", "-out", "shard.crt", "-extfile", "extensions"]
    (folder / "extensions").write_text("keyUsage = digitalSignature, keyEncipherment\n")
    for words in ([*request, *authority], [*request, *shard], sign):
        command = ["openssl", *words]
        subprocess.run(command, cwd=folder, check=True, capture_output=True)


def options(folder):
    """What a server is told to speak TLS with clients, replicas and other shards."""
    words = ["--tls-cluster", "yes", "--tls-replication", "yes"]
    words += ["--tls-ca-cert-file", f"{folder}/ca.crt", "--tls-cert-file", f"{folder}/shard.crt"]
    return [*words, "--tls-key-file", f"{folder}/shard.key"]


def files(folder):
    """The arguments of a redis-py client."""
    names = {"ca_certs": "ca.crt", "certfile": "shard.crt", "keyfile": "shard.key"}
    return {f"ssl_{name}": f"{folder}/{file}" for name, file in names.items()}


def context(folder):
    made = ssl.create_default_context(cafile=f"{folder}/ca.crt")
    made.check_hostname = False
    made.load_cert_chain(f"{folder}/shard.crt", f"{folder}/shard.key")
    return made
