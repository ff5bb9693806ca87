"""`torch.export.ExportedProgram`s: into a program and out of one, and what they carry along."""
