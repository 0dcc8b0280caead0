"""An authority of a test's own, and the certificate of its server on localhost."""

import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


def certificates(work):
    """Writes ca.pem, server.pem and server.key for localhost into a folder; a day long."""
    now = datetime.datetime.now(datetime.timezone.utc)
    day = datetime.timedelta(days=1)

    def name(text):
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    base = x509.CertificateBuilder().issuer_name(name("authority"))
    base = base.not_valid_before(now - day).not_valid_after(now + day)
    ca = base.subject_name(name("authority")).public_key(ca_key.public_key())
    ca = ca.serial_number(x509.random_serial_number())
    ca = ca.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    ca = ca.sign(ca_key, hashes.SHA256())
    leaf = base.subject_name(name("localhost")).public_key(key.public_key())
    leaf = leaf.serial_number(x509.random_serial_number())
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    leaf = leaf.add_extension(names, critical=False).sign(ca_key, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (work / "ca.pem").write_bytes(ca.public_bytes(pem))
    (work / "server.pem").write_bytes(leaf.public_bytes(pem))
    (work / "server.key").write_bytes(key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
