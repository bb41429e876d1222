//! Wheels in pieces, as they are saved and replicated.

use std::fs::File;
use std::io::{Read, Write};
use std::sync::Arc;

use super::shards::Parcel;
use crate::python::Requirement;

/// Nothing is written, sent or read in larger pieces.
pub(super) const PIECE: usize = 256 << 10;

/// A requirement of which some pieces have come.
pub(super) struct Receiving {
    pub(super) requirement: Arc<Requirement>,
    parcel: Parcel,
    /// The wheel that is being written, and what is missing of it.
    at: usize,
    file: Option<(File, u64)>,
}

impl Receiving {
    /// Its folder and first file.
    pub(super) fn begin(requirement: Arc<Requirement>, parcel: Parcel) -> Result<Self, String> {
        requirement.create_folder().map_err(|e| e.to_string())?;
        let mut receiving = Self {
            requirement,
            parcel,
            at: 0,
            file: None,
        };
        receiving.next_file()?;
        Ok(receiving)
    }

    /// Opens the next wheel that has anything in it.
    fn next_file(&mut self) -> Result<(), String> {
        while let Some((name, len)) = self.parcel.wheels.get(self.at) {
            let file = self.requirement.create_wheel(name);
            let file = file.map_err(|error| error.to_string())?;
            if *len > 0 {
                self.file = Some((file, *len));
                return Ok(());
            }
            self.at += 1;
        }
        self.file = None;
        Ok(())
    }

    pub(super) fn piece(&mut self, piece: &[u8]) -> Result<(), String> {
        let (file, missing) = self.file.as_mut().ok_or("more came than was announced")?;
        let len = piece.len() as u64;
        *missing = missing.checked_sub(len).ok_or("a wheel is too long")?;
        file.write_all(piece).map_err(|error| error.to_string())?;
        if *missing == 0 {
            self.at += 1;
            self.next_file()?;
        }
        Ok(())
    }

    /// All of it came.
    pub(super) fn end(self) -> Result<Arc<Requirement>, String> {
        if self.file.is_some() {
            return Err("a wheel is too short".into());
        }
        let files = self.parcel.wheels.into_iter().map(|(file, _)| file);
        self.requirement.received(self.parcel.os, files.collect());
        Ok(self.requirement)
    }
}

/// Hands the wheels of a requirement on in pieces.
pub(super) fn read_wheels(
    requirement: &Requirement,
    parcel: &Parcel,
    take: &mut dyn FnMut(&[u8]),
) -> std::io::Result<()> {
    let mut buffer = vec![0; PIECE];
    for (name, len) in &parcel.wheels {
        let mut file = File::open(requirement.wheel(name))?;
        let mut left = *len;
        while left > 0 {
            let most = usize::try_from(left).unwrap_or(PIECE).min(PIECE);
            let piece = &mut buffer[..most];
            file.read_exact(piece)?;
            take(piece);
            left -= most as u64;
        }
    }
    Ok(())
}
