# SPDX-License-Identifier: Apache-2.0
"""Wire to calls: the gRPC services, one door with one error table, and the server's life."""
