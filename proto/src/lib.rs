//! Wire protocol of Kontiki: generated types and services.
