"""Records of what was found out, as files hold them."""
