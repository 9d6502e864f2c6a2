"""What tests share: nets, data, oracles by hand, hostile files, processes of several ranks."""
