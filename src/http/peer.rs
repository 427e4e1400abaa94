//! The client's end of a connection.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// The client's end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    Tcp(SocketAddr),
    /// A process that has connected to a UNIX socket.
    Unix(Option<Process>),
}

/// The process that has opened a connection, as the kernel reports it (unix(7), `SO_PEERCRED`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(super) pid: i32,
    pub(super) uid: u32,
}

impl Peer {
    /// Returns the client's address. The client of a UNIX socket counts as 127.0.0.1: it is local,
    /// the limits per address do not apply to it, and `--trusted-proxy` names it by this address.
    pub(crate) fn ip(self) -> IpAddr {
        match self {
            Self::Tcp(address) => address.ip(),
            Self::Unix(_) => Ipv4Addr::LOCALHOST.into(),
        }
    }

    /// Returns the name of the connection's thread, at most 15 bytes. It contains the client's port
    /// or process id, by which `ss` shows the connection.
    pub(super) fn thread_name(self) -> String {
        match self {
            Self::Tcp(address) => format!("sse-{}", address.port()),
            Self::Unix(Some(process)) => format!("sse-pid-{}", process.pid),
            Self::Unix(None) => "sse-unix".to_owned(),
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(Some(Process { pid, uid })) => write!(f, "unix:pid={pid},uid={uid}"),
            Self::Unix(None) => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection's thread keeps a copy, so a UNIX peer must not need more of its stack.
    #[test]
    fn peer_takes_no_more_memory_than_an_address() {
        assert_eq!(size_of::<Peer>(), size_of::<SocketAddr>());
    }

    #[test]
    fn thread_name_is_not_truncated() {
        let most = Process { pid: 4_194_304, uid: u32::MAX }; // the limit of pid_max, proc(5)
        assert_eq!(Peer::Unix(Some(most)).thread_name(), "sse-pid-4194304");
        assert!(Peer::Unix(Some(most)).thread_name().len() <= 15);
    }
}
