"""The mesh as native processes on one machine: the three servers, and the services under one supervisor."""
