# SPDX-License-Identifier: Apache-2.0
"""One file's life on disk: fetched under a private name, proven, published, read, removed."""
