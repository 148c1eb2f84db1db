"""How true, how fast and how frugal the reconstruction is, against captures whose truth is known and against real photographs."""
