//! What comes with the program to run it: word to systemd, the health check, and every file of
//! deploy/, checked by the tools that read it.

mod documents;
mod files;
mod monitoring;
mod notify;
mod tools;
