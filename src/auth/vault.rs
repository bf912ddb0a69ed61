//! Where refresh tokens are kept between runs. Some servers give a new one with each answer and
//! refuse the old one from then on: then the newest must be stored before anything is done with the
//! answer, and nobody else may use the old one meanwhile.

use async_trait::async_trait;
use secrecy::SecretString;

use crate::error::{Error, Result};
use crate::http::CallContext;

/// A token as it is kept.
#[derive(Clone, Debug)]
pub struct Kept {
    /// The token.
    pub value: SecretString,
    /// Which version it is, where the place counts them.
    pub version: Option<String>,
}

/// The place of one refresh token.
#[async_trait]
pub trait Vault: Send + Sync {
    /// Waits, within bounds, until nobody else uses the token, and keeps everybody else from it.
    ///
    /// # Errors
    /// Transient when somebody else did not let go of it in time.
    async fn hold(&self, context: &CallContext) -> Result<Box<dyn Hold>>;

    /// The newest token, read anew.
    ///
    /// # Errors
    /// It is not there, or cannot be read.
    async fn newest(&self) -> Result<Kept>;

    /// Stores a token in place of `old`. When it returns, the token is there: it was read back.
    ///
    /// # Errors
    /// The place cannot be written, or did not keep what it was given.
    async fn store(&self, token: &SecretString, old: &Kept) -> Result<()>;

    /// Is told that the token in the place, `old`, is spent, and that the new one could not be stored
    /// there. The vault says so to whoever runs the program, and may try again later.
    fn owe(&self, token: &SecretString, old: &Kept, why: Error);

    /// Where a person finds the token: "secret `refresh_token` of source `acme`".
    fn describe(&self) -> String;

    /// What a person does who has to log in anew.
    fn remedy(&self) -> String;
}

/// Keeps everybody else from a token until it ends.
#[async_trait]
pub trait Hold: Send + Sync {
    /// Lets go.
    async fn end(self: Box<Self>);
}
