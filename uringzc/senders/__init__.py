"""UdpSender and TcpSender."""
