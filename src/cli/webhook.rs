//! The options of `serve` for webhooks.

use std::time::Duration;

use clap::Args;

use crate::webhook::{Options, Secrets, WebhookUrl};

/// The options of webhooks.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Webhooks")]
pub(crate) struct Reports {
    /// Report to this URL which channels have subscribers, and which names are present
    ///
    /// The server sends signed POST requests (Standard Webhooks) until the receiver answers with a
    /// status from 200 to 299. Requires --webhook-secret-file.
    #[arg(long, value_name = "URL", env = "THREADCAST_WEBHOOK", hide_env_values = true)]
    #[arg(requires = "webhook_secret_file")]
    webhook: Option<WebhookUrl>,

    /// Sign webhooks with the secret in this file: whsec_ and 24 to 64 bytes in base64
    ///
    /// With several lines, each message has a signature of each secret, so that a secret can be
    /// replaced.
    #[arg(long, value_name = "FILE", env = "THREADCAST_WEBHOOK_SECRET_FILE")]
    #[arg(value_parser = Secrets::read)]
    webhook_secret_file: Option<Secrets>,

    /// Report the end of a channel's last stream, or of a name's, only after this time
    ///
    /// A client that reconnects meanwhile is not reported. If nodes share a Redis, use at least 3s,
    /// because a node sees the names of the others up to 2 s late.
    #[arg(long, value_name = "DURATION", env = "THREADCAST_WEBHOOK_GRACE", default_value = "3s")]
    #[arg(value_parser = humantime::parse_duration)]
    webhook_grace: Duration,
}

impl Reports {
    /// Returns the options; `None` without --webhook.
    pub(crate) fn options(self) -> Option<Options> {
        let Self { webhook, webhook_secret_file, webhook_grace } = self;
        let (url, secrets) = webhook.zip(webhook_secret_file)?;
        Some(Options { url, secrets, grace: webhook_grace })
    }
}
