//! AWS Signature Version 4, in headers: what a request to a storage bears so that it is believed.
//!
//! The algorithm is that of "Signature Version 4 for API requests" in the AWS IAM user guide. The secret key
//! goes into the signature and nowhere else. It refuses to know what is asked for.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Who asks.
#[derive(Clone)]
pub struct AccessKey {
    /// The id of the key, which is no secret.
    pub id: String,
    /// The key.
    pub secret: Zeroizing<String>,
    /// The token of a session, for keys that are lent for a time.
    pub token: Option<Zeroizing<String>>,
}

/// A request to be signed. Its query is empty.
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// `HOST` or `HOST:PORT`, as in the header.
    pub(super) host: &'a str,
    /// The path, of characters that need no encoding.
    pub(super) path: &'a str,
    /// The SHA-256 of the body, in hexadecimal digits.
    pub(super) body: &'a str,
    /// `YYYYMMDDTHHMMSSZ`.
    pub(super) time: &'a str,
    pub(super) region: &'a str,
}

const SERVICE: &str = "s3";
const ALGORITHM: &str = "AWS4-HMAC-SHA256";

/// The headers that a signed request bears besides `Host`.
pub(super) fn headers(request: &Request<'_>, key: &AccessKey) -> Vec<(&'static str, String)> {
    let mut signed = vec![
        ("host", request.host.to_owned()),
        ("x-amz-content-sha256", request.body.to_owned()),
        ("x-amz-date", request.time.to_owned()),
    ];
    if let Some(token) = &key.token {
        signed.push(("x-amz-security-token", token.to_string()));
    }
    let names = signed.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = signed.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let Request { method, path, body, time, region, .. } = request;
    let canonical = format!("{method}\n{path}\n\n{lines}\n{names}\n{body}");
    let date = time.get(..8).unwrap_or(time);
    let scope = format!("{date}/{region}/{SERVICE}/aws4_request");
    let text = format!("{ALGORITHM}\n{time}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let signature = hex::encode(mac(&signing_key(key, date, region), &text));
    let credential = format!("{}/{scope}", key.id);
    let authorization = format!(
        "{ALGORITHM} Credential={credential}, SignedHeaders={names}, Signature={signature}"
    );
    signed.retain(|(name, _)| *name != "host");
    signed.push(("authorization", authorization));
    signed
}

fn signing_key(key: &AccessKey, date: &str, region: &str) -> Zeroizing<[u8; 32]> {
    let first = Zeroizing::new(format!("AWS4{}", key.secret.as_str()));
    let dated = mac(first.as_bytes(), date);
    let regional = mac(&*dated, region);
    mac(&*mac(&*regional, SERVICE), "aws4_request")
}

fn mac(key: &(impl AsRef<[u8]> + ?Sized), text: &str) -> Zeroizing<[u8; 32]> {
    // HMAC takes keys of any length; the type says otherwise.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key.as_ref()) else {
        return Zeroizing::default();
    };
    mac.update(text.as_bytes());
    Zeroizing::new(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "GET Object" of "Authenticating Requests: Using the Authorization Header" in the Amazon S3 API
    /// reference, without its range; the signature was computed with botocore 1.43.
    const SIGNATURE: &str = "df548e2ce037944d03f3e68682813b093763996d597cf890ca3d9037fd231eb4";

    fn key() -> AccessKey {
        AccessKey {
            id: "AKIAIOSFODNN7EXAMPLE".to_owned(),
            secret: Zeroizing::new("wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY".to_owned()),
            token: None,
        }
    }

    fn request() -> Request<'static> {
        Request {
            method: "GET",
            host: "examplebucket.s3.amazonaws.com",
            path: "/test.txt",
            body: "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            time: "20130524T000000Z",
            region: "us-east-1",
        }
    }

    #[test]
    fn a_request_is_signed_as_others_sign_it() {
        let headers = headers(&request(), &key());
        let (name, value) = headers.last().cloned().unwrap_or_default();
        assert_eq!(name, "authorization");
        assert!(value.ends_with(&format!("Signature={SIGNATURE}")), "{value}");
        assert!(value.contains("SignedHeaders=host;x-amz-content-sha256;x-amz-date,"), "{value}");
    }

    #[test]
    fn no_header_has_the_secret_and_a_token_is_signed() {
        let lent = AccessKey { token: Some(Zeroizing::new("lent".to_owned())), ..key() };
        let headers = headers(&request(), &lent);
        assert!(
            headers.iter().any(|(name, value)| *name == "x-amz-security-token" && value == "lent")
        );
        assert!(headers.iter().all(|(_, value)| !value.contains("bPxRfiCY")));
        let authorization = headers.iter().find(|(name, _)| *name == "authorization");
        assert!(authorization.is_some_and(|(_, value)| value.contains("x-amz-security-token,")));
    }
}
