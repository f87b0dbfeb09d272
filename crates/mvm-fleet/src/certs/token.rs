//! Join tokens: what an operator hands to a machine so that each side knows the other.
//!
//! ```text
//! mvmj1.<expiry, seconds>.<SHA-256 of the authority's certificate>.<32 random bytes>      hexadecimal
//! ```
//!
//! The node learns from it whom to believe and how to show that it was invited; the operator's side keeps a
//! hash of it and nothing that proves anything. It is worth as much as a signature until it is used or over,
//! so it is for one node's key, and an hour is what it lives unless told otherwise. It refuses to know how it
//! travels.

use std::{fmt, str::FromStr};

use mvm_core::{
    base64,
    error::{Error, ErrorKind},
    units::Timestamp,
};
use ring::hmac;
use zeroize::Zeroizing;

use super::{authority::random, facts::fingerprint};

/// What a token begins with.
const KIND: &str = "mvmj1";
/// What is proven begins with this, so that no proof for another purpose is one.
const DOMAIN: &[u8] = b"mvm/join/1";

/// Who proves that it knows a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Who signs.
    Operator,
    /// Who asks for a certificate.
    Node,
}

/// A join token. Whoever sees its text may use it, so it has no `Debug`.
#[derive(Clone)]
pub struct Token {
    /// Until when it may be used.
    pub expires: Timestamp,
    /// The SHA-256 of the authority's certificate, hexadecimal.
    pub authority: String,
    secret: Zeroizing<[u8; 32]>,
}

impl Token {
    /// Draws a token.
    ///
    /// # Errors
    /// `Failed` without random bytes.
    pub fn draw(authority: &str, expires: Timestamp) -> Result<Self, Error> {
        let authority = authority.to_owned();
        // To the second, as the text has it.
        let expires = Timestamp(expires.0 / 1000 * 1000);
        Ok(Self { expires, authority, secret: Zeroizing::new(random()?) })
    }

    /// Its text.
    #[must_use]
    pub fn text(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(hex::encode(*self.secret));
        let Self { expires, authority, .. } = self;
        Zeroizing::new(format!("{KIND}.{:x}.{authority}.{}", expires.0 / 1000, *secret))
    }

    /// By which it is known on the operator's side: a hash that proves nothing.
    #[must_use]
    pub fn id(&self) -> String {
        fingerprint(self.text().as_bytes())
    }

    /// Whether its time is over.
    #[must_use]
    pub fn is_over(&self, now: Timestamp) -> bool {
        now > self.expires
    }

    /// That a side knows it, in this session and with this content.
    #[must_use]
    pub fn prove(&self, side: Side, session: &[u8], content: &[u8]) -> String {
        let tag = hmac::sign(&self.key(), &message(side, session, content));
        base64::encode(tag.as_ref())
    }

    /// Whether a proof is that of this side, session and content.
    #[must_use]
    pub fn holds(&self, proof: &str, side: Side, session: &[u8], content: &[u8]) -> bool {
        let tag = base64::decode(proof).unwrap_or_default();
        hmac::verify(&self.key(), &message(side, session, content), &tag).is_ok()
    }

    fn key(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &*self.secret)
    }
}

fn message(side: Side, session: &[u8], content: &[u8]) -> Vec<u8> {
    let side: &[u8] = match side {
        Side::Operator => b"operator",
        Side::Node => b"node",
    };
    let mut message = Vec::new();
    for field in [DOMAIN, side, session, content] {
        message.extend_from_slice(&(field.len() as u64).to_be_bytes());
        message.extend_from_slice(field);
    }
    message
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { expires, authority, secret: _ } = self;
        f.debug_struct("Token")
            .field("expires", expires)
            .field("authority", authority)
            .finish_non_exhaustive()
    }
}

impl FromStr for Token {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        read(text.trim()).ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "this is no join token")
                .hint("make one where the authority's key is: mvm coordinator token")
        })
    }
}

fn read(text: &str) -> Option<Token> {
    let mut parts = text.split('.');
    let all = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let (KIND, expires, authority, secret) = all else { return None };
    if parts.next().is_some() || hex::decode(authority).ok()?.len() != 32 {
        return None;
    }
    let expires = u64::from_str_radix(expires, 16).ok()?.checked_mul(1000).map(Timestamp)?;
    let secret = Zeroizing::new(hex::decode(secret).ok()?);
    let secret = Zeroizing::new(<[u8; 32]>::try_from(secret.as_slice()).ok()?);
    let token = Token { expires, authority: authority.to_owned(), secret };
    // One text for each token, so that none has two ids.
    (*token.text() == text).then_some(token)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]

    use super::*;

    fn token() -> Token {
        Token::draw(&"ab".repeat(32), Timestamp(1_800_000_000_999)).unwrap()
    }

    #[test]
    fn a_token_is_read_back_and_no_other_text_is_one() {
        let token = token();
        let text = token.text();
        let read: Token = text.parse().unwrap();
        assert_eq!((read.id(), read.expires), (token.id(), Timestamp(1_800_000_000_000)));
        for wrong in ["", "mvmj1", &text[1..], &text.to_uppercase(), &format!("{}0", *text)] {
            assert!(wrong.parse::<Token>().is_err(), "{wrong}");
        }
        assert!(!format!("{token:?}").contains(text.rsplit('.').next().unwrap()));
    }

    #[test]
    fn a_proof_is_of_one_token_side_session_and_content() {
        let one = token();
        let proof = one.prove(Side::Node, b"session", b"request");
        assert!(one.holds(&proof, Side::Node, b"session", b"request"));
        assert!(!one.holds(&proof, Side::Operator, b"session", b"request"));
        assert!(!one.holds(&proof, Side::Node, b"another", b"request"));
        assert!(!one.holds(&proof, Side::Node, b"session", b"another"));
        assert!(!one.holds(&proof, Side::Node, b"sessionr", b"equest"));
        assert!(!token().holds(&proof, Side::Node, b"session", b"request"));
        assert!(!one.holds("", Side::Node, b"session", b"request"));
    }
}
