# SPDX-License-Identifier: Apache-2.0
"""Generated messages (`*_pb2`, from proto/) and their translation to domain types: once in, once out."""
