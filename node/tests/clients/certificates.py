"""An authority of a test's own, and the certificates of its server on localhost and of a client."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID


def certificates(work):
    """Writes ca.pem and ca.key, server.pem and server.key for localhost, client.pem and client.key of
    `spiffe://acme.example/web`, and pod.pem and pod.key of a pod of Kubernetes into a folder; a day long."""
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)

    def name(text):
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    ca_key = ec.generate_private_key(ec.SECP256R1())
    base = x509.CertificateBuilder().issuer_name(name("authority"))
    base = base.not_valid_before(now - day).not_valid_after(now + day)
    ca = base.subject_name(name("authority")).public_key(ca_key.public_key())
    ca = ca.serial_number(x509.random_serial_number())
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    ca = ca.sign(ca_key, hashes.SHA256())
    pem = serialization.Encoding.PEM

    def write(file, certificate, key):
        (work / f"{file}.pem").write_bytes(certificate.public_bytes(pem))
        (work / f"{file}.key").write_bytes(key.private_bytes(
            pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))

    write("ca", ca, ca_key)
    for file, subject, other_name, usage in (
            ("server", "localhost", x509.DNSName("localhost"), ExtendedKeyUsageOID.SERVER_AUTH),
            ("client", "web", x509.UniformResourceIdentifier("spiffe://acme.example/web"),
             ExtendedKeyUsageOID.CLIENT_AUTH),
            ("pod", "host.apps.pod",
             x509.UniformResourceIdentifier("spiffe://cluster.local/namespace/shop/podname/web-1"),
             ExtendedKeyUsageOID.CLIENT_AUTH)):
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = base.subject_name(name(subject)).public_key(key.public_key())
        leaf = leaf.serial_number(x509.random_serial_number())
        names = x509.SubjectAlternativeName([other_name])
        leaf = leaf.add_extension(names, critical=False)
        leaf = leaf.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        write(file, leaf.sign(ca_key, hashes.SHA256()), key)
