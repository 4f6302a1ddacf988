//! The authority of a cluster: makes itself, and signs who its nodes are.

use crate::subject::Subject;
use crate::tls::{COORDINATOR_NAME, TlsError};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType, SerialNumber, SigningKey as _, SubjectPublicKeyInfo,
};
use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls_pki_types::CertificateDer;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};
use types::{ClusterId, Timestamp};

/// A node's certificate counts for so long; it is renewed after two thirds of that.
pub const CERTIFICATE_LIFE: Duration = Duration::from_hours(24);
/// An authority lives for ten years, or until it is replaced.
const AUTHORITY_LIFE: Duration = Duration::from_hours(24 * 3_652);
/// Machines' clocks may be apart by so much.
const CLOCKS_APART: Duration = Duration::from_mins(5);

/// A certificate authority with its private key. No `Debug`: the key must not reach a log.
pub struct Authority {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

/// What is to be signed.
pub struct Request<'a> {
    /// Whose certificate it will be.
    pub subject: &'a Subject,
    /// Its public key: DER of a SubjectPublicKeyInfo.
    pub public_key: &'a [u8],
    /// Host names and addresses at which clients that know nothing of Muster may reach it.
    pub hosts: &'a [String],
    /// Now.
    pub now: Timestamp,
    /// How long it counts.
    pub life: Duration,
}

impl Authority {
    /// A new one, with a new key.
    pub fn create(cluster: ClusterId, now: Timestamp) -> Result<Self, TlsError> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        // Two authorities of one cluster differ in name, so that a chain leads to one of them only.
        let chance = u32::from_be_bytes(daemon::random::bytes().map_err(TlsError::Random)?);
        let name = format!("Muster authority {chance:08x} of {cluster}");
        params.distinguished_name.push(DnType::CommonName, name);
        // One below it: the authority that replaces it.
        is_authority(&mut params, 1);
        lives(&mut params, now, AUTHORITY_LIFE);
        let certificate = params.self_signed(&key)?.der().clone();
        Ok(Self { certificate, key })
    }

    /// A certificate of the `next` authority by this one: who believes this one alone believes what the next signs.
    pub fn vouch(&self, next: &Authority, now: Timestamp) -> Result<CertificateDer<'static>, TlsError> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name_of(&next.certificate)?);
        params.use_authority_key_identifier_extension = true;
        is_authority(&mut params, 0);
        lives(&mut params, now, AUTHORITY_LIFE);
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key)?;
        Ok(params.signed_by(&next.key, &issuer)?.der().clone())
    }

    /// One that was stored: PEM of the key, DER of the certificate.
    pub fn load(certificate: CertificateDer<'static>, key_pem: &str) -> Result<Self, TlsError> {
        let authority = Self { certificate, key: KeyPair::from_pem(key_pem)? };
        let (_, parsed) = x509_parser::parse_x509_certificate(&authority.certificate)
            .map_err(|error| TlsError::Certificate(error.to_string()))?;
        if parsed.public_key().raw != authority.key.subject_public_key_info() {
            return Err(TlsError::Certificate("the authority's key is not that of its certificate".into()));
        }
        Ok(authority)
    }

    /// Its certificate.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// Its private key in PEM, for the disk of a coordinator only.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// Signs a text, in DER (ECDSA P-256 with SHA-256); what it says must not be taken for a certificate.
    pub fn sign_text(&self, text: &[u8]) -> Result<Vec<u8>, TlsError> {
        Ok(self.key.sign(text)?)
    }

    /// Signs a node's certificate. When it was issued stands in its serial number, so that a revocation can tell what came before
    /// it from what came after.
    pub fn sign(&self, request: &Request<'_>) -> Result<CertificateDer<'static>, TlsError> {
        let public_key = SubjectPublicKeyInfo::from_der(request.public_key)?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, request.subject.to_string());
        params.serial_number = Some(SerialNumber::from_slice(&serial(request.now)?));
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.subject_alt_names = vec![SanType::URI(request.subject.uri().try_into()?)];
        if matches!(request.subject, Subject::Coordinator { .. }) {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
            params.subject_alt_names.push(SanType::DnsName(COORDINATOR_NAME.try_into()?));
            for host in request.hosts {
                params.subject_alt_names.push(match host.parse::<IpAddr>() {
                    Ok(address) => SanType::IpAddress(address),
                    Err(_) => SanType::DnsName(host.as_str().try_into()?),
                });
            }
        }
        lives(&mut params, request.now, request.life);
        let issuer = Issuer::from_ca_cert_der(&self.certificate, &self.key)?;
        Ok(params.signed_by(&public_key, &issuer)?.der().clone())
    }
}

/// Was this text signed with the key of this certificate?
pub fn is_signed_by(certificate: &CertificateDer<'_>, text: &[u8], signature: &[u8]) -> bool {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(certificate) else { return false };
    let key = parsed.public_key().subject_public_key.data.as_ref();
    UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, key).verify(text, signature).is_ok()
}

/// The common name of a certificate.
fn name_of(certificate: &CertificateDer<'_>) -> Result<String, TlsError> {
    let (_, parsed) =
        x509_parser::parse_x509_certificate(certificate).map_err(|error| TlsError::Certificate(error.to_string()))?;
    let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    name.map(str::to_owned).ok_or_else(|| TlsError::Certificate("an authority without a name".into()))
}

fn is_authority(params: &mut CertificateParams, below: u8) {
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
}

fn lives(params: &mut CertificateParams, now: Timestamp, life: Duration) {
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(now.0);
    params.not_before = (now - CLOCKS_APART).into();
    params.not_after = (now + life).into();
}

/// A number that is no other certificate's: 1, the time of issue in milliseconds, chance.
fn serial(now: Timestamp) -> Result<[u8; 17], TlsError> {
    let mut serial = [1_u8; 17];
    serial[1..9].copy_from_slice(&now.0.to_be_bytes());
    serial[9..].copy_from_slice(&daemon::random::bytes::<8>().map_err(TlsError::Random)?);
    Ok(serial)
}
