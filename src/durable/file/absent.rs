//! Stands in for `file_log` in a build without the feature `redb`, in which no stream is in a file.

use std::ops::Range;
use std::sync::Arc;

use super::catalog::{CreateError, Created, DeleteError, NewStream};
use super::log::Boundary;
use super::messages::{BodyError, Messages};
use super::stream::{AppendError, Appended, Request, Stream};
use crate::error::PublishError;

/// The store's file, for streams: none.
#[derive(Debug, Clone)]
pub(super) enum StreamFile {}

impl StreamFile {
    pub(super) fn create(&self, _: NewStream) -> Result<Created, CreateError> {
        match *self {}
    }

    pub(super) fn delete(&self, _: &Arc<Stream>) -> Result<(), DeleteError> {
        match *self {}
    }

    pub(super) fn expire(&self, _: &Arc<Stream>) -> Result<(), PublishError> {
        match *self {}
    }

    pub(super) fn sweep(&self, _: &[Arc<Stream>]) {
        match *self {}
    }
}

/// The log of one stream in the file: none.
#[derive(Debug)]
pub(super) enum FileLog {}

impl FileLog {
    pub(super) fn append(
        &self,
        _: &Arc<Stream>,
        _: Request,
        _: Result<Messages, BodyError>,
    ) -> Result<Appended, AppendError> {
        match *self {}
    }

    pub(super) fn copy(&self, _: Range<u64>, _: &mut Vec<u8>) -> Result<(), PublishError> {
        match *self {}
    }

    pub(super) fn is_boundary(&self, _: u64) -> Result<bool, PublishError> {
        match *self {}
    }

    pub(super) fn whole_messages(&self, _: &Range<u64>) -> Result<u64, PublishError> {
        match *self {}
    }

    pub(super) fn append_after(&self, _: u64) -> Result<Vec<Boundary>, PublishError> {
        match *self {}
    }
}
