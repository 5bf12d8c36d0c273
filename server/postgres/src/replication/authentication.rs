//! Authentication at the start of a connection: trust, cleartext, MD5, SCRAM-SHA-256. A password goes in the clear only
//! over TLS, a Unix socket, or within this machine.

use bytes::BytesMut;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;

use super::connection::{Connection, Incoming};
use super::replication_error::{ReplicationError, unexpected};
use super::settings::{ConnectionSettings, Host};

/// Answers what the server asks until it is content. `is_private`: nobody can listen.
pub(super) fn authenticate(
    connection: &mut Connection,
    settings: &ConnectionSettings,
    is_private: bool,
) -> Result<(), ReplicationError> {
    let password = || {
        let known = settings.password.as_deref();
        known.ok_or(ReplicationError::NoPassword)
    };
    let mut scram: Option<ScramSha256> = None;
    // SCRAM is the longest exchange: start, continue, final, ok.
    for _ in 0..4 {
        let mut out = BytesMut::new();
        let Incoming::Message(message) = connection.receive()? else {
            return Err(unexpected("during authentication"));
        };
        match message {
            Message::AuthenticationOk => return Ok(()),
            Message::AuthenticationCleartextPassword if is_private => {
                frontend::password_message(password()?.as_bytes(), &mut out)?;
            }
            Message::AuthenticationCleartextPassword => {
                return Err(ReplicationError::Authentication(
                    "a password in the clear over a connection without TLS",
                ));
            }
            Message::AuthenticationMd5Password(body) => {
                let user = settings.user.as_bytes();
                let hash = md5_hash(user, password()?.as_bytes(), body.salt());
                frontend::password_message(hash.as_bytes(), &mut out)?;
            }
            Message::AuthenticationSasl(_) => {
                let password = password()?.as_bytes();
                let exchange = ScramSha256::new(password, ChannelBinding::unsupported());
                let first = exchange.message();
                frontend::sasl_initial_response(SCRAM_SHA_256, first, &mut out)?;
                scram = Some(exchange);
            }
            Message::AuthenticationSaslContinue(body) => {
                let exchange = scram.as_mut();
                let exchange = exchange.ok_or_else(|| unexpected("SCRAM out of order"))?;
                exchange.update(body.data())?;
                frontend::sasl_response(exchange.message(), &mut out)?;
            }
            Message::AuthenticationSaslFinal(body) => {
                let exchange = scram.as_mut();
                let exchange = exchange.ok_or_else(|| unexpected("SCRAM out of order"))?;
                exchange.finish(body.data())?;
                continue;
            }
            Message::AuthenticationGss | Message::AuthenticationSspi => {
                return Err(ReplicationError::Authentication("GSSAPI or SSPI"));
            }
            Message::AuthenticationKerberosV5 | Message::AuthenticationScmCredential => {
                return Err(ReplicationError::Authentication("Kerberos 5 or SCM"));
            }
            _ => return Err(unexpected("during authentication")),
        }
        connection.send(&out)?;
    }
    Err(unexpected("authentication without an end"))
}

/// Whether the host is this machine.
pub(super) fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost"
                || name
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|address| address.is_loopback())
        }
    }
}
